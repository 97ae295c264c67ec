#include "dist/process_grid.hpp"

#include "core/error.hpp"

namespace graphlora {

ProcessGrid::ProcessGrid(std::shared_ptr<Communicator> world, int tensor_parallel)
    : world_(std::move(world)) {
  if (tensor_parallel < 1)
    throw ConfigError("--tensor-parallel {}: at least 1 is needed", tensor_parallel);
  if (world_->size() % tensor_parallel != 0) {
    throw ConfigError("--tensor-parallel {} does not divide the {} ranks of this run",
                      tensor_parallel, world_->size());
  }
  if (tensor_parallel > 1)
    throw ConfigError("--tensor-parallel above 1 is not supported yet; use 1");
  const int replica = world_->rank() / tensor_parallel;
  const int slice = world_->rank() % tensor_parallel;
  data_ = world_->split(slice, replica);
  tensor_ = world_->split(replica, slice);
}

}  // namespace graphlora
