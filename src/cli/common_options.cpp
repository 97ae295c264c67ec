#include "cli/common_options.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <limits>

#include "core/error.hpp"
#include "dist/job.hpp"

namespace graphlora {
namespace {

constexpr const char* kTimeout = "comm.timeout";
constexpr const char* kRecordings = "comm.dump";
constexpr const char* kDebug = "comm.debug";

}  // namespace

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
      .add(kCommonGroup, "device", &options.device,
           "cpu, cuda (train, evaluate, recommend: each rank of a host takes the next GPU that it "
           "sees), or "
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
           in_range(options.threads, 0, 4096))
      .add(kCommonGroup, kTimeout, &options.timeout,
           "SECONDS: how long a rank waits in one operation for ranks that give no sign of life, "
           "before it names them and ends the job",
           in_range(options.timeout, 1, 7 * 24 * 3600))
      .add(kCommonGroup, kRecordings, &options.recordings,
           "DIR: where ranks leave their flight recordings when a job of several fails, and signs "
           "of life while one waits long; all ranks must see it. Empty: OUTPUT/flight in train, "
           "else graphlora-flight in the working directory")
      .add(kCommonGroup, kDebug, &options.debug,
           "compare before each operation what the ranks are about to do: slow, finds the first "
           "mismatch");
}

JobGuard job_guard(OptionTable table, const std::vector<std::string>& arguments) {
  CommonOptions options;
  std::map<std::string, std::string> values;
  try {
    if (table.parse(arguments)) {
      for (const auto& [name, value] : table.values()) values[name] = value;
      options.timeout = std::stoll(values.at(kTimeout));
    }
  } catch (const ConfigError&) {  // NOLINT: reported by the command
    values.clear();
  }
  std::filesystem::path recordings = values[kRecordings];
  if (recordings.empty() && table.command() == "train" && !values["output"].empty())
    recordings = std::filesystem::path(values["output"]) / "flight";
  if (recordings.empty()) recordings = "graphlora-flight";
  return {std::chrono::seconds(options.timeout), recordings, values[kDebug] == "true"};
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
