#include "train/workspace.hpp"

#include <chrono>

#include "core/memory.hpp"

namespace graphlora {
namespace {

// What each part says of the others must be what they say of themselves: who sends how much to
// whom, who owns the halo's nodes and the hubs, and how many neighbours a hub has. Collective.
void check_agreement(Job& job, const Shard& shard, const NodeMap& map,
                     const std::string& directory) {
  Communicator& world = *job.world();
  const auto counts_of = [&](const at::Tensor& offsets) {
    std::vector<std::int64_t> counts;
    for (int rank = 0; rank < world.size(); ++rank)
      counts.push_back((offsets[rank + 1] - offsets[rank]).item<std::int64_t>());
    return counts;
  };
  const auto arriving = world.exchange_counts(counts_of(shard.send_offsets()), Traffic::control);
  const std::string hubs = shard.describe_hubs();
  const std::string hubs_of_root = world.broadcast_text(hubs, 0, Traffic::control);
  const at::Tensor neighbours = shard.own_hub_neighbours().clone();
  const bool same_hubs = world.all_gather(hubs == hubs_of_root ? 1 : 0, Traffic::control) ==
                         std::vector<std::int64_t>(static_cast<std::size_t>(world.size()), 1);
  if (same_hubs) world.all_reduce(neighbours, ReduceOp::sum, Traffic::control).wait();
  job.agree([&] {
    const auto refuse = [&](const std::string& what) {
      throw DataError("{}: part {}: {}; rebuild it with graphlora partition", directory,
                      world.rank(), what);
    };
    if (!same_hubs) refuse("its hubs are not those of the other parts");
    if (arriving != counts_of(shard.halo_offsets()))
      refuse("its halo is not what the other parts send");
    const auto owned_by = [&](const at::Tensor& nodes, const std::vector<std::int64_t>& counts) {
      const auto* node = nodes.const_data_ptr<std::int64_t>();
      for (std::size_t rank = 0; rank < counts.size(); ++rank)
        for (std::int64_t i = 0; i < counts[rank]; ++i)
          if (map.owner(*node++) != static_cast<int>(rank)) return false;
      return true;
    };
    if (!owned_by(shard.halo(), arriving)) refuse("a halo node belongs to another part");
    if (!owned_by(shard.hubs(), counts_of(shard.hub_offsets())))
      refuse("a hub belongs to another part");
    if (!at::equal(neighbours, shard.hub_degree().to(at::kLong)))
      refuse("its hubs' numbers of neighbours are not what the parts hold");
  });
}

}  // namespace

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
  release_free_memory();  // what building a partition has left
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
  check_agreement(job, *shard, *map, partition_directory(*dataset, grid->size()).string());
  lap("shard");
}

}  // namespace graphlora
