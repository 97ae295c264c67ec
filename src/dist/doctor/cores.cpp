#include "dist/doctor/cores.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "dist/doctor/gather.hpp"

namespace graphlora::doctor {
namespace {

/// Cores' worth of time that the control group of a container allows, of both versions of control
/// groups; 0: no limit.
double quota() {
  double time = 0, period = 0;
  std::ifstream both("/sys/fs/cgroup/cpu.max");
  if (both >> time >> period && period > 0) return time / period;
  std::ifstream first("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream second("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (first >> time && second >> period && time > 0 && period > 0) return time / period;
  return 0;
}

/// Ranks of a host that may use exactly the same cores.
using Groups = std::map<std::vector<int>, std::vector<int>>;

Groups groups_of(const Host& host, std::span<const RankPlace> places) {
  Groups groups;
  for (const int rank : host.ranks) groups[places[rank].cores].push_back(rank);
  return groups;
}

int threads_of(const std::vector<int>& ranks, std::span<const CoreUse> uses) {
  int threads = 0;
  for (const int rank : ranks) threads += uses[rank].threads;
  return threads;
}

/// Appends what is wrong with one host more, of many only the first.
void add(Check& check, std::string seen, const std::string& remedy) {
  if (check.verdict == Verdict::warn) return;
  check.verdict = Verdict::warn;
  check.seen = std::move(seen);
  check.remedy = remedy;
}

void check_threads(Check& check, const Host& host, const Groups& groups,
                   std::span<const CoreUse> uses) {
  std::set<int> all;
  for (const auto& [cores, ranks] : groups) all.insert(cores.begin(), cores.end());
  const auto report = [&](std::size_t ranks, int threads, std::size_t cores) {
    add(check,
        fmt::format("{} ranks on {} have {} threads on {} core{}", ranks, host.name, threads, cores,
                    cores == 1 ? "" : "s"),
        "they wait for each other: fewer ranks or threads (--threads, OMP_NUM_THREADS), or more "
        "cores (--cpus-per-task); if it must be, OMPI_MCA_mpi_yield_when_idle=1 (launch/mpirun "
        "sets it)");
  };
  if (all.empty()) return;
  if (const int threads = threads_of(host.ranks, uses); threads > static_cast<int>(all.size()))
    report(host.ranks.size(), threads, all.size());
  for (const auto& [cores, ranks] : groups) {
    if (const int threads = threads_of(ranks, uses);
        !cores.empty() && threads > static_cast<int>(cores.size()))
      report(ranks.size(), threads, cores.size());
  }
}

void check_binding(Check& check, const Host& host, const Groups& groups,
                   std::span<const CoreUse> uses) {
  const int share = uses[host.ranks[0]].online / static_cast<int>(host.ranks.size());
  for (const auto& [cores, ranks] : groups) {
    // A scheduler's part of a host is no mistake, one core is what mpirun gives unasked.
    if (cores.size() == 1 && share > 1) {
      add(check,
          fmt::format("rank {} on {} may use 1 of {} cores, its share is {}", ranks[0], host.name,
                      uses[ranks[0]].online, share),
          "mpirun binds to one core: --bind-to none (launch/mpirun gives it), or --cpus-per-task");
    }
    for (const auto& [others, other_ranks] : groups) {
      std::vector<int> common;
      std::set_intersection(cores.begin(), cores.end(), others.begin(), others.end(),
                            std::back_inserter(common));
      if (cores == others || common.empty()) continue;
      add(check,
          fmt::format("ranks {} and {} on {} share {} of their {} and {} cores", ranks[0],
                      other_ranks[0], host.name, common.size(), cores.size(), others.size()),
          "bind ranks to cores of their own, or none (--bind-to none)");
    }
  }
}

void check_quota(Check& check, const Host& host, std::span<const CoreUse> uses) {
  const double allowed = uses[host.ranks[0]].quota;
  if (allowed <= 0) return;
  if (check.verdict == Verdict::skip) {
    check.verdict = Verdict::pass;
    check.seen = fmt::format("{:.1f} cores' worth of time", allowed);
  }
  const int threads = threads_of(host.ranks, uses);
  if (threads > std::ceil(allowed)) {
    add(check,
        fmt::format("{} threads on {}, its control group allows {:.1f} cores' worth of time",
                    threads, host.name, allowed),
        "threads are stopped in mid-step: --threads, or a larger limit of the container");
  }
}

}  // namespace

CoreUse own_core_use(int threads) {
  return {.threads = threads,
          .online = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))),
          .quota = quota()};
}

std::vector<CoreUse> gather_core_use(Communicator& world, const CoreUse& own) {
  constexpr double kParts = 1000;
  const auto threads = world.all_gather(own.threads, Traffic::control);
  const auto online = world.all_gather(own.online, Traffic::control);
  const auto quotas =
      world.all_gather(static_cast<std::int64_t>(own.quota * kParts), Traffic::control);
  std::vector<CoreUse> uses;
  for (int rank = 0; rank < world.size(); ++rank) {
    uses.push_back({static_cast<int>(threads[rank]), static_cast<int>(online[rank]),
                    static_cast<double>(quotas[rank]) / kParts});
  }
  return uses;
}

std::vector<Check> check_cores(std::span<const RankPlace> places, std::span<const CoreUse> uses) {
  const std::vector<Host> hosts = hosts_of(places);
  Check threads{"CPU", "threads", Verdict::pass, ""};
  Check binding{"CPU", "binding", Verdict::pass,
                "no rank is bound to one core of several, none shares some of its cores"};
  Check limit{"CPU", "quota", Verdict::skip, "no control group limits it"};
  int all = 0;
  for (const CoreUse& use : uses) all += use.threads;
  threads.seen = fmt::format("{} threads, no more than cores on any host", all);
  for (const Host& host : hosts) {
    const Groups groups = groups_of(host, places);
    check_threads(threads, host, groups, uses);
    check_binding(binding, host, groups, uses);
    check_quota(limit, host, uses);
  }
  return {threads, binding, limit};
}

}  // namespace graphlora::doctor
