// graphlora doctor: whether this machine, or this set of ranks, is fit for a run.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/doctor/directory.hpp"
#include "core/doctor/limits.hpp"
#include "core/doctor/memory.hpp"
#include "core/error.hpp"
#include "dist/device.hpp"
#include "dist/doctor/clocks.hpp"
#include "dist/doctor/cores.hpp"
#include "dist/doctor/gather.hpp"
#include "dist/doctor/gpus.hpp"
#include "dist/doctor/launcher.hpp"
#include "dist/doctor/network.hpp"
#include "dist/doctor/shared_directory.hpp"
#include "dist/doctor/versions.hpp"
#include "dist/host_name.hpp"
#include "dist/nccl_communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora {
namespace {

using doctor::Check;
using doctor::Verdict;
using Json = nlohmann::ordered_json;

constexpr double kMega = 1e6, kMilli = 1e-3;
constexpr double kMiB = 1 << 20, kGiB = 1 << 30;
constexpr const char* kSharedMemory = "/dev/shm";

struct DoctorOptions {
  std::string output;
  bool json = false;
  double payload = 8, latency = 5, bandwidth = 100, outlier = 8;
  double skew = 1, memory = 2, files = 10;
  std::int64_t patience = 10;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "doctor", "Checks whether these ranks can carry a run, and says what to mend",
        "Looks at MPI and what started the ranks, GPUs and NCCL, cores, limits (ulimit), memory "
        "and "
        "/dev/shm, the file system of --output, the hosts' clocks, latency and bandwidth between "
        "ranks, and whether all have the same program and libraries. Start it as the run will be "
        "started, on the same hosts with the same options (mpirun, srun, --device, --threads): "
        "alone "
        "it looks at one rank only. It takes seconds, and what it writes it removes again.\n\n"
        "One line a check: pass, warn (a run works, but slowly or at a risk), fail (a run will not "
        "work, or not as asked) or skip (there is nothing of the kind). warn and fail come with a "
        "remedy.\n\n"
        "Exit code: 0 if nothing failed, 4 if a check of MPI, NCCL, network or versions failed, "
        "else 2.");
    table.example("graphlora doctor", "this machine, one rank")
        .example("mpirun -np 4 graphlora doctor --output run", "four ranks, and where they write")
        .example("srun --mpi=pmix graphlora doctor --output /scratch/me --json",
                 "a Slurm allocation, for a program to read");
    table
        .add("Files", "output", &output,
             "DIR: an existing directory on the file system that runs will write to; empty: no "
             "file system is looked at")
        .add("Files", "files.free", &files, "space wanted there, GiB", in_range(files, 0, 1e9))
        .add("Files", "files.patience", &patience,
             "seconds until a file written by one rank must be seen by the others",
             in_range(patience, 0, 600));
    table
        .add("Network", "network.payload", &payload, "MiB of a large message",
             in_range(payload, 0.01, 4096))
        .add("Network", "network.latency", &latency,
             "a message between neighbours that takes more milliseconds is a warning",
             in_range(latency, 0, 1e6))
        .add("Network", "network.bandwidth", &bandwidth,
             "fewer MB/s between neighbours are a warning", in_range(bandwidth, 0, 1e9))
        .add("Network", "network.outlier", &outlier,
             "a pair of ranks this many times slower than the others is a warning",
             in_range(outlier, 1, 1e6))
        .add("Network", "clock.skew", &skew, "seconds between two hosts' clocks that are a warning",
             in_range(skew, 0, 1e9));
    table.add("Memory", "memory.free", &memory, "free memory wanted for each rank, GiB",
              in_range(memory, 0, 1e6));
    table.add("Output", "json", &json, "print one JSON object");
    add_common_options(table, common, Computes::on_any_device);
    return table;
  }
};

/// Whether a failure of this group is one of communication.
bool concerns_communication(const Check& check) {
  for (const char* group : {"MPI", "NCCL", "network", "versions"})
    if (check.group == group) return true;
  return false;
}

ExitCode exit_code(const std::vector<Check>& checks) {
  ExitCode code = ExitCode::ok;
  for (const Check& check : checks) {
    if (check.verdict != Verdict::fail) continue;
    if (concerns_communication(check)) return ExitCode::communication;
    code = ExitCode::config;
  }
  return code;
}

/// What is known so far; as text it is printed as it comes, so that one sees where a job hangs.
class Report {
 public:
  Report(bool prints, bool json) : prints_(prints), json_(json) {}

  void add(const std::vector<Check>& checks) {
    for (const Check& check : checks) {
      checks_.push_back(check);
      if (!prints_ || json_) continue;
      fmt::print("{:<6}{:<25}{}\n", doctor::to_string(check.verdict),
                 check.group + " " + check.name, check.seen);
      if (!check.remedy.empty()) fmt::print("{:<31}to mend: {}\n", "", check.remedy);
    }
    std::fflush(stdout);
  }

  void add_map(std::vector<RankPlace> places) {
    places_ = std::move(places);
    if (prints_ && !json_) fmt::print("{}\n\n", describe_rank_map(places_));
  }

  ExitCode finish() const {
    const ExitCode code = exit_code(checks_);
    if (!prints_) return code;
    std::array<int, 4> counts{};
    for (const Check& check : checks_) ++counts.at(static_cast<std::size_t>(check.verdict));
    if (json_) {
      Json map = Json::array(), checks = Json::array();
      for (std::size_t rank = 0; rank < places_.size(); ++rank) {
        map.push_back({{"rank", rank},
                       {"host", places_[rank].host},
                       {"device", places_[rank].device},
                       {"cores", places_[rank].cores}});
      }
      for (const Check& check : checks_) {
        checks.push_back({{"group", check.group},
                          {"name", check.name},
                          {"verdict", doctor::to_string(check.verdict)},
                          {"seen", check.seen},
                          {"remedy", check.remedy}});
      }
      const Json all{{"verdict", doctor::to_string(doctor::worst(checks_))},
                     {"exit_code", static_cast<int>(code)},
                     {"ranks", map},
                     {"checks", checks}};
      fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
    } else {
      fmt::print("\n{} pass, {} warn, {} fail, {} skip\n", counts[1], counts[2], counts[3],
                 counts[0]);
    }
    return code;
  }

 private:
  bool prints_, json_;
  std::vector<RankPlace> places_;
  std::vector<Check> checks_;
};

/// Takes the device and the communicator that a run with these options would; where these can't be
/// had, the checks of GPUs and NCCL say why. Collective.
void choose_device(const DoctorOptions& options, Job& job, std::span<const doctor::GpuUse> gpus) {
  const bool all = std::all_of(gpus.begin(), gpus.end(),
                               [](const doctor::GpuUse& gpu) { return gpu.why_none.empty(); });
  if (options.common.device == "cpu" || !all) return;
  const bool nccl = why_no_nccl().empty() && doctor::have_own_gpus(gpus);
  std::int64_t able = 0;
  for (const std::int64_t one : job.world()->all_gather(nccl ? 1 : 0, Traffic::control))
    able += one;
  const bool can = able == job.world()->size();
  job.use_device(options.common.device,
                 can || options.common.comm != "nccl" ? options.common.comm : "mpi");
}

std::vector<Check> check_host(const DoctorOptions& options, Communicator& world,
                              std::span<const RankPlace> places) {
  const RankPlace& own = places[world.rank()];
  const auto on_host =
      static_cast<int>(std::count_if(places.begin(), places.end(), [&](const RankPlace& place) {
        return place.host == own.host;
      }));
  std::vector<Check> checks =
      doctor::check_limits(doctor::process_limits(), doctor::limit_needs(world.size()));
  const auto memory = doctor::check_memory(doctor::host_memory(), on_host,
                                           static_cast<std::uint64_t>(options.memory * kGiB));
  checks.insert(checks.end(), memory.begin(), memory.end());
  checks.push_back(doctor::check_shared_memory(kSharedMemory, on_host));
  return doctor::gather_checks(world, checks, places);
}

std::vector<Check> check_files(const DoctorOptions& options, Job& job, Communicator& world,
                               std::span<const RankPlace> places) {
  if (options.output.empty())
    return {{"files", "directory", Verdict::skip, "--output DIR names one to look at"}};
  std::vector<Check> own;
  if (job.local_rank() == 0)
    own = doctor::check_directory(options.output, static_cast<std::uint64_t>(options.files * kGiB));
  std::vector<Check> checks = doctor::gather_checks(world, own, places);
  const auto shared = doctor::check_shared_directory(world, options.output, places,
                                                     std::chrono::seconds(options.patience));
  checks.insert(checks.end(), shared.begin(), shared.end());
  return checks;
}

Check check_hosts_clocks(const DoctorOptions& options, Communicator& world,
                         std::span<const RankPlace> places) {
  std::vector<int> ranks;
  for (const doctor::Host& host : doctor::hosts_of(places))
    if (host.ranks[0] != 0) ranks.push_back(host.ranks[0]);
  return doctor::check_clocks(doctor::measure_clocks(world, ranks), places, options.skew);
}

}  // namespace

OptionTable describe_doctor() { return table_of<DoctorOptions>(); }

int run_doctor(Job& job, const std::vector<std::string>& arguments) {
  DoctorOptions options;
  job.agree([&] { options.table().parse(arguments); });
  const std::shared_ptr<Communicator> world = job.world();  // over MPI, whatever GPUs there are
  apply_common_options(options.common, *world);
  Report report(world->rank() == 0, options.json);

  const auto gpus = doctor::gather_gpu_use(*world, doctor::own_gpu_use(job.local_rank()));
  choose_device(options, job, gpus);
  const std::vector<RankPlace> places = gather_rank_map(job);
  report.add_map(places);

  report.add(doctor::gather_checks(
      *world,
      doctor::check_launcher(doctor::mpi_state(world->size()), doctor::initial_environment()),
      places));
  report.add(
      doctor::check_versions(doctor::gather_software(*world, doctor::own_software()), places));
  report.add(doctor::check_gpus(places, gpus, options.common.device == "cuda"));
  const doctor::NcclState nccl{nccl_version(), why_no_nccl(), job.world() != world};
  report.add(doctor::gather_checks(
      *world,
      {doctor::check_nccl(nccl, world->size() > 1 && doctor::have_own_gpus(gpus),
                          options.common.comm)},
      places));
  report.add(doctor::check_cores(
      places, doctor::gather_core_use(*world, doctor::own_core_use(at::get_num_threads()))));
  report.add(check_host(options, *world, places));
  report.add(check_files(options, job, *world, places));
  report.add({check_hosts_clocks(options, *world, places)});
  report.add(doctor::check_network(
      doctor::measure_network(*job.world(), job.device(),
                              static_cast<std::int64_t>(options.payload * kMiB)),
      places,
      {.latency = options.latency * kMilli,
       .bandwidth = options.bandwidth * kMega,
       .outlier = options.outlier}));
  return static_cast<int>(report.finish());
}

}  // namespace graphlora
