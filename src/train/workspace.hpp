// What every distributed command opens first: dataset, this rank's shard, the grid, and who owns
// which node.
#pragma once
#include <filesystem>
#include <memory>

#include "data/dataset.hpp"
#include "dist/job.hpp"
#include "dist/process_grid.hpp"
#include "graph/partition.hpp"
#include "graph/shard.hpp"

namespace graphlora {

struct Workspace {
  /// Opens DATA and its partition for the world's size, building it on rank 0 where it is missing
  /// or was cut otherwise. Errors are agreed. Collective.
  Workspace(Job& job, const std::filesystem::path& data, PartitionConfig partition,
            int tensor_parallel = 1);

  PartitionConfig partition;
  std::unique_ptr<ProcessGrid> grid;
  std::unique_ptr<Dataset> dataset;
  std::unique_ptr<Shard> shard;
  std::unique_ptr<NodeMap> map;
  Communicator& world() const { return grid->world(); }
};

}  // namespace graphlora
