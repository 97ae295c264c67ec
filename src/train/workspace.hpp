// What every distributed command opens first: dataset, this rank's shard, the grid, and who owns
// which node.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "dist/job.hpp"
#include "dist/process_grid.hpp"
#include "graph/partition.hpp"
#include "graph/shard.hpp"
#include "graph/training_order.hpp"

namespace graphlora {

struct Workspace {
  /// Opens DATA and its partition for the world's size; rank 0 builds it where there is none that
  /// can be reused, and the parts are compared with one another. Rank 0 checks all of the dataset,
  /// once; then every rank maps it by its shapes and touches only what it uses. Errors are agreed.
  /// Collective.
  Workspace(Job& job, const std::filesystem::path& data, PartitionConfig partition,
            Reuse reuse = Reuse::same_cut, int tensor_parallel = 1);

  PartitionConfig partition;
  std::unique_ptr<ProcessGrid> grid;
  std::unique_ptr<Dataset> dataset;
  std::unique_ptr<Shard> shard;
  std::unique_ptr<TrainingOrder> order;
  std::unique_ptr<NodeMap> map;
  /// What opening took, in order: (what, seconds).
  std::vector<std::pair<std::string, double>> seconds;
  Communicator& world() const { return grid->world(); }
};

}  // namespace graphlora
