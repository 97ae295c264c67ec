// Options that every command has.
#pragma once
#include <cstdint>
#include <string>

#include "core/options.hpp"
#include "dist/job.hpp"

namespace graphlora {

/// A command may set other defaults before `add_common_options` binds them.
struct CommonOptions {
  std::int64_t seed = 1;
  std::string device = "auto";
  std::string comm = "auto";
  std::string precision = "bf16";
  std::int64_t threads = 0;  ///< 0: the cores this rank may use
  std::int64_t timeout = 300;
  std::string recordings = {};  ///< empty: OUTPUT/flight of train, else graphlora-flight
  bool debug = false;
};

/// Name of the group of these options in --help and docs.
inline constexpr const char* kCommonGroup = "Common options";

/// What a command can compute on: many read, sort and write only.
enum class Computes { on_cpu, on_any_device };

/// Adds --seed, --device, --comm, --precision, --threads and --comm.timeout, .dump, .debug
/// (--config is always known). Call it last.
void add_common_options(OptionTable& table, CommonOptions& options,
                        Computes computes = Computes::on_cpu);

/// What the arguments of a command say of the job's guard, which is up before the command runs.
/// Those that are wrong give the defaults: the command refuses them on all ranks at once.
JobGuard job_guard(OptionTable table, const std::vector<std::string>& arguments);

/// Sets the number of threads of this process. Collective (ranks of a host share its cores).
void apply_common_options(const CommonOptions& options, Communicator& world);

/// The same, and chooses the job's device and communicator: for commands that compute on any
/// device.
void apply_common_options(const CommonOptions& options, Job& job);

}  // namespace graphlora
