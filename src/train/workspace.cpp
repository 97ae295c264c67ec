#include "train/workspace.hpp"

namespace graphlora {

Workspace::Workspace(Job& job, const std::filesystem::path& data, PartitionConfig config,
                     Reuse reuse, int tensor_parallel)
    : partition(std::move(config)) {
  partition.parts = job.world()->size();
  job.agree([&] {
    grid = std::make_unique<ProcessGrid>(job.world(), tensor_parallel);
    dataset = std::make_unique<Dataset>(data);
    if (grid->rank() == 0) dataset->verify();
  });
  ensure_partition(job, *dataset, partition, reuse);
  job.agree([&] {
    shard = std::make_unique<Shard>(partition_directory(*dataset, grid->size()), grid->rank(),
                                    *dataset);
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
