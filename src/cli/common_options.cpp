#include "cli/common_options.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <limits>

#include "dist/job.hpp"

namespace graphlora {

void add_common_options(OptionTable& table, CommonOptions& options, Computes computes) {
  // Values only: whether there is a GPU is found out by Job::use_device.
  const bool any = computes == Computes::on_any_device;
  const auto device = [any, &options, known = one_of(options.device, {"auto", "cpu", "cuda"})] {
    std::string wrong = known();
    if (wrong.empty() && !any && options.device == "cuda")
      wrong = "this command computes on the CPU; use auto or cpu";
    return wrong;
  };
  const auto comm = [any, &options, known = one_of(options.comm, {"auto", "nccl", "mpi"})] {
    std::string wrong = known();
    if (wrong.empty() && !any && options.comm == "nccl")
      wrong = "this command computes on the CPU; use auto or mpi";
    return wrong;
  };
  table
      .add(kCommonGroup, "seed", &options.seed, "seed of everything random",
           in_range(options.seed, 0, std::numeric_limits<std::int64_t>::max()))
      .add(
          kCommonGroup, "device", &options.device,
          "cpu, cuda (train and evaluate: each rank of a host takes the next GPU that it sees), or "
          "auto: cuda where every rank has a GPU, with a warning where ranks share one",
          device)
      .add(kCommonGroup, "comm", &options.comm,
           "what ranks talk over: nccl (GPUs, one for each rank), mpi (through pinned memory where "
           "they compute on GPUs, which they may share), or auto: nccl where each has its own GPU",
           comm)
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

void apply_common_options(const CommonOptions& options, Job& job) {
  apply_common_options(options, *job.world());
  job.use_device(options.device, options.comm);
}

}  // namespace graphlora
