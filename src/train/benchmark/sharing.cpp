#include "train/benchmark/sharing.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "dist/device.hpp"
#include "dist/doctor/cores.hpp"
#include "dist/doctor/gather.hpp"

namespace graphlora::benchmark {

std::string what_is_shared(std::span<const RankPlace> places, std::span<const int> threads,
                           std::span<const double> quotas, std::span<const std::string> gpus) {
  for (const doctor::Host& host : doctor::hosts_of(places)) {
    std::map<std::string, int> users;
    std::set<int> cores;
    int all = 0;
    for (const int rank : host.ranks) {
      const auto r = static_cast<std::size_t>(rank);
      if (!gpus[r].empty() && ++users[gpus[r]] > 1)
        return fmt::format("{} ranks on a GPU of {}", users[gpus[r]], host.name);
      cores.insert(places[r].cores.begin(), places[r].cores.end());
      all += threads[r];
    }
    auto have = static_cast<int>(cores.size());
    // A quota holds for all processes of its group, which are those of the host.
    const double quota = quotas[static_cast<std::size_t>(host.ranks.front())];
    if (quota > 0) have = std::min(have, static_cast<int>(std::ceil(quota)));
    if (have > 0 && all > have) {
      return fmt::format("{} threads of {} ranks on {} cores of {}", all, host.ranks.size(), have,
                         host.name);
    }
  }
  return {};
}

std::string what_is_shared(Job& job, std::span<const RankPlace> places) {
  Communicator& world = *job.world();
  std::vector<int> threads;
  std::vector<double> quotas;
  for (const doctor::CoreUse& use :
       doctor::gather_core_use(world, doctor::own_core_use(at::get_num_threads()))) {
    threads.push_back(use.threads);
    quotas.push_back(use.quota);
  }
  const std::string gpu = job.device().is_cpu()
                              ? std::string()
                              : fmt::format("{}", fmt::join(gpu_uuid(job.device()), "-"));
  return what_is_shared(places, threads, quotas, doctor::gather_texts(world, gpu));
}

}  // namespace graphlora::benchmark
