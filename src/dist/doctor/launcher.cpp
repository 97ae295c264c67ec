#include "dist/doctor/launcher.hpp"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <charconv>
#include <fstream>

#include "dist/mpi_version.hpp"

namespace graphlora::doctor {
namespace {

/// The launcher's name, and the number of processes it started; 0 where it does not say.
struct Launcher {
  std::string name = "none";
  int processes = 0;
};

int number(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  if (found == environment.end()) return 0;
  const std::string& text = found->second;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() ? std::max(0, value) : 0;
}

Launcher launcher_of(const Environment& environment) {
  const auto has = [&](const char* name) { return environment.contains(name); };
  if (has("OMPI_COMM_WORLD_SIZE"))
    return {"mpirun of Open MPI", number(environment, "OMPI_COMM_WORLD_SIZE")};
  if (has("HYDI_CONTROL_FD")) return {"mpirun of MPICH", number(environment, "PMI_SIZE")};
  if (has("SLURM_STEP_ID")) {
    const char* interface = "without PMIx or PMI";
    if (has("PMI_RANK")) interface = "with PMI";
    if (has("PMIX_RANK")) interface = "with PMIx";
    return {fmt::format("srun {}", interface), number(environment, "SLURM_STEP_NUM_TASKS")};
  }
  if (has("PMIX_RANK")) return {"a PMIx launcher", 0};
  if (has("PMI_RANK")) return {"a PMI launcher", number(environment, "PMI_SIZE")};
  return {};
}

const char* level_name(int level) {
  switch (level) {
    case MPI_THREAD_SINGLE:
      return "MPI_THREAD_SINGLE";
    case MPI_THREAD_FUNNELED:
      return "MPI_THREAD_FUNNELED";
    case MPI_THREAD_SERIALIZED:
      return "MPI_THREAD_SERIALIZED";
    case MPI_THREAD_MULTIPLE:
      return "MPI_THREAD_MULTIPLE";
    default:
      return "unknown";
  }
}

}  // namespace

Environment initial_environment() {
  Environment environment;
  std::ifstream file("/proc/self/environ", std::ios::binary);
  for (std::string entry; std::getline(file, entry, '\0');) {
    const auto equals = entry.find('=');
    if (equals != std::string::npos)
      environment.emplace(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return environment;
}

MpiState mpi_state(int ranks) {
  MpiState state{.ranks = ranks};
  MPI_Query_thread(&state.thread_level);
  return state;
}

std::vector<Check> check_launcher(const MpiState& state, const Environment& environment) {
  Check threads{"MPI", "threads", Verdict::pass, level_name(state.thread_level)};
  if (state.thread_level < MPI_THREAD_SERIALIZED) {
    threads.verdict = Verdict::fail;
    threads.remedy = "MPI_THREAD_SERIALIZED is needed: an MPI built with threads";
  }
  const Launcher launcher = launcher_of(environment);
  Check start{
      "MPI", "launcher", Verdict::pass,
      fmt::format("{}, {} rank{}", launcher.name, state.ranks, state.ranks == 1 ? "" : "s")};
  if (launcher.processes != 0 && launcher.processes != state.ranks) {
    start.verdict = Verdict::fail;
    start.seen = fmt::format("{} started {} processes, MPI sees {}", launcher.name,
                             launcher.processes, state.ranks);
    start.remedy =
        "start with the mpirun of the MPI this program is linked with, or srun --mpi=pmix "
        "(srun --mpi=list says what there is)";
  }
  return {{"MPI", "library", Verdict::pass, mpi_version()}, threads, start};
}

}  // namespace graphlora::doctor
