// What stands for NCCL in builds without it.
#include "core/error.hpp"
#include "dist/nccl_communicator.hpp"

namespace graphlora {

std::string why_no_nccl() {
#ifdef GRAPHLORA_HAS_CUDA
  return "this program was built without NCCL (docs/gpu.md says how to build with it)";
#else
  return "this program was built without CUDA, and so without NCCL";
#endif
}

int nccl_version() { return 0; }

std::unique_ptr<Communicator> make_nccl_communicator(std::shared_ptr<Communicator>, at::Device,
                                                     std::chrono::seconds) {
  throw ConfigError("--comm nccl: {}", why_no_nccl());
}

}  // namespace graphlora
