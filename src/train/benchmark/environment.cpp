#include "train/benchmark/environment.hpp"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <set>
#include <sstream>

#include "core/file.hpp"
#include "core/memory.hpp"
#include "dist/doctor/gather.hpp"
#include "dist/doctor/launcher.hpp"

namespace graphlora::benchmark {
namespace {

using Json = nlohmann::ordered_json;

/// What stands behind `key` in /proc/cpuinfo, for the first core.
std::string cpu_property(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

Json host_json() {
  std::set<std::string> sockets;
  int cores = 0;
  for (;; ++cores) {
    std::ifstream file(
        fmt::format("/sys/devices/system/cpu/cpu{}/topology/physical_package_id", cores));
    std::string socket;
    if (!(file >> socket)) break;
    sockets.insert(socket);
  }
  return {{"cpu", cpu_property("model name")},
          {"capability", at::get_cpu_capability()},
          {"sockets", sockets.size()},
          {"cores", cores},
          {"memory_bytes", total_memory_bytes()}};
}

}  // namespace

Json environment(Job& job, std::span<const RankPlace> places, const std::string& version) {
  Communicator& world = *job.world();
  const auto hosts = doctor::gather_texts(world, host_json().dump());
  const auto threads = world.all_gather(at::get_num_threads(), Traffic::control);
  Json json{{"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
            {"compiler", __VERSION__}};
  std::istringstream lines(version);
  for (std::string line; std::getline(lines, line);) json["versions"].push_back(line);
  json["libraries"] = {{"mkldnn", at::get_mkldnn_version()}, {"mkl", at::get_mkl_version()}};
  for (const doctor::Host& host : doctor::hosts_of(places)) {
    Json one = Json::parse(hosts[static_cast<std::size_t>(host.ranks.front())]);
    one["host"] = host.name;
    one["ranks"] = host.ranks;
    json["hosts"].push_back(std::move(one));
  }
  for (std::size_t rank = 0; rank < places.size(); ++rank) {
    json["ranks"].push_back({{"rank", rank},
                             {"host", places[rank].host},
                             {"device", places[rank].device},
                             {"cores", places[rank].cores},
                             {"threads", threads[rank]}});
  }
  json["slurm"] = Json::object();
  for (const auto& [name, value] : doctor::initial_environment())
    for (const char* known : {"SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION",
                              "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_CLUSTER_NAME"})
      if (name == known) json["slurm"][name] = value;
  return json;
}

}  // namespace graphlora::benchmark
