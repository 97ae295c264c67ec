#include "dist/rank_map.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <cerrno>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "dist/device.hpp"
#include "dist/host_name.hpp"

namespace graphlora {
namespace {

constexpr std::size_t kHostsShown = 4;
constexpr int kMostCores = 1 << 16;

/// "0-3,8" of ascending numbers.
std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += text.empty() ? "" : ",";
    text += fmt::format("{}", numbers[i]);
    if (end > i + 1) text += fmt::format("-{}", numbers[end - 1]);
    i = end;
  }
  return text;
}

/// Ranks of one kind (device and cores), by host in the order of their first ranks.
struct Kind {
  const RankPlace* place;
  std::vector<std::pair<std::string, std::vector<int>>> ranks_of_host;
  std::map<std::string, std::size_t> index_of_host;
};

std::string line_of(const Kind& kind) {
  const auto& hosts = kind.ranks_of_host;
  std::vector<std::string> shown;
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    if (hosts.size() > kHostsShown && i + 1 >= kHostsShown && i + 1 < hosts.size()) continue;
    shown.push_back(fmt::format("{} on {}", ranges(hosts[i].second), hosts[i].first));
  }
  std::string text = shown.front();
  for (std::size_t i = 1; i < shown.size(); ++i) {
    const bool gap = hosts.size() > kHostsShown && i + 1 == shown.size();
    text += (gap ? ", …, " : ", ") + shown[i];
  }
  if (hosts.size() > kHostsShown) text += fmt::format(" ({} hosts)", hosts.size());
  const bool one = hosts.size() == 1 && hosts[0].second.size() == 1;
  const std::vector<int>& cores = kind.place->cores;
  return fmt::format(
      "{} {}: {}, {}", one ? "rank" : "ranks", text, kind.place->device,
      cores.empty() ? "cores unknown"
                    : fmt::format("{} {}", cores.size() == 1 ? "core" : "cores", ranges(cores)));
}

}  // namespace

std::vector<int> affinity_cores() {
  // A fixed set is refused on hosts with more cores than it holds.
  for (int size = CPU_SETSIZE; size <= kMostCores; size *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(
        CPU_ALLOC(size), [](cpu_set_t* set) { CPU_FREE(set); });
    if (!mask) return {};
    const std::size_t bytes = CPU_ALLOC_SIZE(size);
    CPU_ZERO_S(bytes, mask.get());
    if (sched_getaffinity(0, bytes, mask.get()) != 0) {
      if (errno == EINVAL) continue;
      return {};
    }
    std::vector<int> cores;
    for (int core = 0; core < size; ++core)
      if (CPU_ISSET_S(core, bytes, mask.get())) cores.push_back(core);
    return cores;
  }
  return {};
}

std::vector<RankPlace> gather_rank_map(Job& job) {
  const at::Device device = job.device();
  const nlohmann::json own{
      {"host", host_name()},
      {"device", device.is_cpu() ? "cpu"
                                 : fmt::format("{} ({}, {})", device.str(), gpu_name(device),
                                               gpu_address(device))},
      {"cores", affinity_cores()}};
  std::string text = own.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const at::Tensor bytes =
      at::from_blob(text.data(), {static_cast<std::int64_t>(text.size())}, at::kByte);
  const auto [all, counts] = job.world()->all_gather_varying(bytes, Traffic::control);

  std::vector<RankPlace> places;
  const char* next = static_cast<const char*>(all.const_data_ptr());
  for (const std::int64_t count : counts) {
    const auto place = nlohmann::json::parse(next, next + count);
    places.push_back({place.at("host"), place.at("device"), place.at("cores")});
    next += count;
  }
  return places;
}

std::string describe_rank_map(std::span<const RankPlace> places, std::size_t most_lines) {
  std::vector<Kind> kinds;
  std::map<std::pair<std::string, std::vector<int>>, std::size_t> index_of_kind;
  for (std::size_t rank = 0; rank < places.size(); ++rank) {
    const RankPlace& place = places[rank];
    const auto [found, is_new] =
        index_of_kind.try_emplace({place.device, place.cores}, kinds.size());
    if (is_new) kinds.push_back({&place, {}, {}});
    Kind& kind = kinds[found->second];
    const auto [host, new_host] =
        kind.index_of_host.try_emplace(place.host, kind.ranks_of_host.size());
    if (new_host) kind.ranks_of_host.emplace_back(place.host, std::vector<int>{});
    kind.ranks_of_host[host->second].second.push_back(static_cast<int>(rank));
  }
  std::vector<std::string> lines;
  for (const Kind& kind : kinds) {
    if (lines.size() == most_lines) break;
    lines.push_back(line_of(kind));
  }
  if (kinds.size() > lines.size())
    lines.push_back(fmt::format("and {} more kinds of places", kinds.size() - lines.size()));
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace graphlora
