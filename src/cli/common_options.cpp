#include "cli/common_options.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <limits>

#include "dist/job.hpp"

namespace graphlora {

void add_common_options(OptionTable& table, CommonOptions& options) {
  const auto device = [&options, known = one_of(options.device, {"auto", "cpu", "cuda"})] {
    if (std::string wrong = known(); !wrong.empty()) return wrong;
    if (options.device != "cuda") return std::string();
    return std::string("the GPU path is not supported yet; use auto or cpu");
  };
  const auto comm = [&options, known = one_of(options.comm, {"auto", "nccl", "mpi"})] {
    if (std::string wrong = known(); !wrong.empty()) return wrong;
    if (options.comm == "nccl") return std::string("nccl is not supported yet; use auto or mpi");
    return std::string();
  };
  table
      .add(kCommonGroup, "seed", &options.seed, "seed of everything random",
           in_range(options.seed, 0, std::numeric_limits<std::int64_t>::max()))
      .add(kCommonGroup, "device", &options.device, "auto, cpu, or cuda (not supported yet)",
           device)
      .add(kCommonGroup, "comm", &options.comm,
           "what ranks talk over: auto, mpi, or nccl (not supported yet)", comm)
      .add(kCommonGroup, "precision", &options.precision,
           "bf16 (activations bf16, parameters fp32), fp32 or fp64",
           one_of(options.precision, {"bf16", "fp32", "fp64"}))
      .add(kCommonGroup, "threads", &options.threads,
           "threads of each rank; 0: the cores it may use, shared with the other ranks of its host",
           in_range(options.threads, 0, 4096));
}

void apply_common_options(const CommonOptions& options, Communicator& world) {
  const int shared = default_threads(world);
  at::set_num_threads(options.threads > 0 ? static_cast<int>(options.threads) : shared);
}

}  // namespace graphlora
