#include "train/workspace.hpp"

namespace graphlora {

Workspace::Workspace(Job& job, const std::filesystem::path& data, PartitionConfig config,
                     int tensor_parallel)
    : partition(std::move(config)) {
  partition.parts = job.world()->size();
  job.agree([&] {
    grid = std::make_unique<ProcessGrid>(job.world(), tensor_parallel);
    dataset = std::make_unique<Dataset>(data);
  });
  job.agree([&] {
    if (grid->rank() == 0 && !partition_is_current(*dataset, partition))
      write_partition(*dataset, partition);
  });
  job.agree([&] {
    shard = std::make_unique<Shard>(partition_directory(*dataset, grid->size()), grid->rank(),
                                    *dataset);
  });
  map = std::make_unique<NodeMap>(grid->world(), shard->owned(), dataset->nodes());
}

}  // namespace graphlora
