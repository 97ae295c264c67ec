#include "train/workspace.hpp"

#include <malloc.h>

#include <chrono>

namespace graphlora {

Workspace::Workspace(Job& job, const std::filesystem::path& data, PartitionConfig config,
                     Reuse reuse, int tensor_parallel)
    : partition(std::move(config)) {
  partition.parts = job.world()->size();
  const auto start = std::chrono::steady_clock::now();
  double done = 0;
  const auto lap = [&](const char* what) {
    const double now =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    seconds.emplace_back(what, now - std::exchange(done, now));
  };
  {
    // Passes over all rows go through maps of their own, which end here with all they have touched.
    std::unique_ptr<Dataset> whole;
    job.agree([&] {
      grid = std::make_unique<ProcessGrid>(job.world(), tensor_parallel);
      const bool root = grid->rank() == 0;
      whole = std::make_unique<Dataset>(data, root ? DatasetCheck::complete : DatasetCheck::shapes);
      if (root) whole->verify();
    });
    lap("dataset");
    ensure_partition(job, *whole, partition, reuse);
    lap("partition");
  }
  malloc_trim(0);  // what building a partition has left
  job.agree([&] {
    dataset = std::make_unique<Dataset>(data, DatasetCheck::shapes);
    const std::filesystem::path directory = partition_directory(*dataset, grid->size());
    shard = std::make_unique<Shard>(directory, grid->rank(), *dataset);
    order = std::make_unique<TrainingOrder>(directory, *dataset, shard->cut());
  });
  // The exchange stands outside of agree, which needs a local body.
  const auto [ids, counts] = world().all_gather_varying(shard->owned(), Traffic::control);
  job.agree([&, &ids = ids, &counts = counts] {
    try {
      map = std::make_unique<NodeMap>(ids, counts, dataset->nodes());
    } catch (const DataError& error) {
      throw DataError("{}: {}; rebuild it with graphlora partition --data {}",
                      partition_directory(*dataset, grid->size()).string(), error.what(),
                      dataset->directory().string());
    }
  });
  lap("shard");
}

at::Tensor in_node_order(const Workspace& workspace, const at::Tensor& rows_nC) {
  Communicator& world = workspace.world();
  const at::Tensor ids = world.all_gather_varying(workspace.shard->owned(), Traffic::control).first;
  const at::Tensor rows = world.all_gather_varying(rows_nC.contiguous(), Traffic::control).first;
  at::Tensor result = at::empty_like(rows);
  result.index_copy_(0, ids, rows);
  return result;
}

}  // namespace graphlora
