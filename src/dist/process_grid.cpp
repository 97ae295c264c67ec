#include "dist/process_grid.hpp"

#include "core/error.hpp"
#include "dist/host_name.hpp"

namespace graphlora {
namespace {

/// Collective over the tensor group whose first world rank is `first`.
void require_one_host(Communicator& tensor, int first) {
  const std::string host = host_name();
  const std::string host_of_first = tensor.broadcast_text(host, 0, Traffic::control);
  const auto elsewhere = tensor.all_gather(host == host_of_first ? 0 : 1, Traffic::control);
  for (int t = 0; t < tensor.size(); ++t) {
    if (elsewhere[t] == 0) continue;
    throw ConfigError(
        "--tensor-parallel {}: ranks {} and {} share a replica of the LLM, but are on two hosts; "
        "give each host a multiple of {} ranks, consecutive ones (mpirun --map-by slot)",
        tensor.size(), first, first + t, tensor.size());
  }
}

}  // namespace

ProcessGrid::ProcessGrid(std::shared_ptr<Communicator> world, int tensor_parallel)
    : world_(std::move(world)) {
  if (tensor_parallel < 1)
    throw ConfigError("--tensor-parallel {}: at least 1 is needed", tensor_parallel);
  if (world_->size() % tensor_parallel != 0) {
    throw ConfigError("--tensor-parallel {} does not divide the {} ranks of this run",
                      tensor_parallel, world_->size());
  }
  const int replica = world_->rank() / tensor_parallel;
  const int slice = world_->rank() % tensor_parallel;
  data_ = world_->split(slice, replica);
  tensor_ = world_->split(replica, slice);
  data_->name_axis("data");
  tensor_->name_axis("tensor");
  require_one_host(*tensor_, world_->rank() - slice);
}

}  // namespace graphlora
