#include "dist/doctor/network.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "dist/doctor/gather.hpp"
#include "dist/doctor/message.hpp"

namespace graphlora::doctor {
namespace {

constexpr double kBudget = 0.25;  // seconds for each kind of operation
constexpr int kFewest = 3, kMost = 100;
// Pairs this quick are not worth a word, however they compare.
constexpr double kQuick = 50e-6;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Seconds of each repetition of `once` on this rank, their number agreed on to fit the budget; the
/// first one, which makes connections, is not counted. Collective, as `once` is.
std::vector<double> repeat(Communicator& world, const std::function<void()>& once) {
  once();
  world.barrier();
  const double start = now();
  once();
  const at::Tensor slowest = at::full({1}, now() - start, at::kDouble);
  world.all_reduce(slowest, ReduceOp::max, Traffic::control).wait();
  const double count = kBudget / std::max(slowest.item<double>(), 1e-9);
  const int times = static_cast<int>(std::clamp(count, double{kFewest}, double{kMost}));
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    const double begin = now();
    once();
    seconds.push_back(now() - begin);
  }
  return seconds;
}

void synchronize(at::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
}

/// Times an all-reduce; false where a sum is wrong.
bool time_all_reduce(Communicator& world, at::Device device, std::int64_t bytes, double& seconds) {
  const at::Tensor x = at::empty({bytes / 4}, at::device(device).dtype(at::kFloat));
  const int size = world.size();
  bool right = true;
  const std::vector<double> times = repeat(world, [&] {
    x.fill_(world.rank() + 1);
    world.all_reduce(x, ReduceOp::sum, Traffic::control).wait();
    synchronize(device);
  });
  const double sum = 0.5 * size * (size + 1);
  right = (x == sum).all().item<bool>();
  seconds = median(times);
  return right;
}

/// The pairs of a round are disjoint: each rank with the next one, from even ranks, from odd ones,
/// and from the last one to the first where that is a third round.
int rounds(int size) {
  if (size < 3) return size - 1;
  return size % 2 == 0 ? 2 : 3;
}

/// The rank that begins the round's pair to which `rank` belongs; −1: it belongs to none.
int first_of(int rank, int round, int size) {
  if (round == 2) return rank == size - 1 || rank == 0 ? size - 1 : -1;
  const int first = rank % 2 == round ? rank : (rank + size - 1) % size;
  // Of an odd number of ranks one stands aside in each round.
  if (first % 2 != round || (size % 2 == 1 && first == size - 1)) return -1;
  if (size == 2 && first == 1) return -1;
  return first;
}

/// Times messages between neighbours; false where one has other contents than were sent.
bool time_pairs(Communicator& world, at::Device device, std::int64_t payload,
                std::vector<PairTimes>& pairs) {
  const int size = world.size(), rank = world.rank();
  bool right = true;
  at::Tensor own = at::zeros({4}, at::kDouble);  // what this rank measured as the first of its pair
  for (int round = 0; round < rounds(size); ++round) {
    const int first = first_of(rank, round, size);
    const int second = first < 0 ? -1 : (first + 1) % size;
    const bool asks = rank == first, answers = rank == second;
    for (const bool large : {false, true}) {
      const at::Tensor row =
          at::zeros({1, large ? payload : 8}, at::device(device).dtype(at::kByte));
      const std::vector<double> times = repeat(world, [&] {
        if (asks) row.fill_(first % 251 + 1);
        synchronize(device);
        message(world, row, asks ? second : -1, answers ? first : -1);
        message(world, row, answers ? first : -1, asks ? second : -1);
      });
      if (first < 0) continue;
      right = right && (row == first % 251 + 1).all().item<bool>();
      if (!asks) continue;
      const double fastest = *std::min_element(times.begin(), times.end()) / 2;
      own[0] = 1;
      if (large) {
        own[3] = static_cast<double>(payload) / fastest;
      } else {
        own[1] = fastest;
        own[2] = median(times) / 2;
      }
    }
  }
  const at::Tensor all = world.all_gather_varying(own.unsqueeze(0), Traffic::control).first;
  for (int i = 0; i < size; ++i) {
    const auto* row = all[i].const_data_ptr<double>();
    if (row[0] > 0) pairs.push_back({i, (i + 1) % size, row[1], row[2], row[3]});
  }
  return right;
}

std::string time_text(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.1f} us", 1e6 * seconds)
                        : fmt::format("{:.2f} ms", 1e3 * seconds);
}

std::string rate_text(double bytes_per_second) {
  return fmt::format("{:.2f} GB/s", 1e-9 * bytes_per_second);
}

std::string pair_text(const PairTimes& pair, std::span<const RankPlace> places) {
  return fmt::format("{} and {}", rank_text(places, pair.first), rank_text(places, pair.second));
}

Check network_check(const char* name, std::string seen) {
  return {"network", name, Verdict::pass, std::move(seen)};
}

bool between_hosts(const PairTimes& pair, std::span<const RankPlace> places) {
  return places[pair.first].host != places[pair.second].host;
}

Check check_outliers(const NetworkTimes& times, std::span<const RankPlace> places,
                     const NetworkLimits& limits) {
  std::vector<std::string> slow;
  for (const bool between : {false, true}) {
    std::vector<PairTimes> pairs;
    for (const PairTimes& pair : times.pairs)
      if (between_hosts(pair, places) == between) pairs.push_back(pair);
    if (pairs.empty()) continue;
    std::vector<double> latencies, bandwidths;
    for (const PairTimes& pair : pairs) {
      latencies.push_back(pair.median);
      bandwidths.push_back(pair.bandwidth);
    }
    const double latency = median(latencies), bandwidth = median(bandwidths);
    for (const PairTimes& pair : pairs) {
      if (pair.median > limits.outlier * std::max(latency, kQuick)) {
        slow.push_back(fmt::format("{}: {}, others {}", pair_text(pair, places),
                                   time_text(pair.median), time_text(latency)));
      } else if (pair.bandwidth * limits.outlier < bandwidth) {
        slow.push_back(fmt::format("{}: {}, others {}", pair_text(pair, places),
                                   rate_text(pair.bandwidth), rate_text(bandwidth)));
      }
    }
  }
  Check check = network_check("outliers", fmt::format("none of {} pairs", times.pairs.size()));
  if (slow.empty()) return check;
  check.verdict = Verdict::warn;
  check.seen = slow.front();
  for (std::size_t i = 1; i < std::min<std::size_t>(slow.size(), 4); ++i)
    check.seen += "; " + slow[i];
  if (slow.size() > 4) check.seen += fmt::format("; and {} more", slow.size() - 4);
  check.remedy =
      "a step waits for its slowest pair: look at the cables, cards and load of these "
      "hosts, or leave them out (--exclude)";
  return check;
}

}  // namespace

NetworkTimes measure_network(Communicator& world, at::Device device, std::int64_t payload) {
  NetworkTimes times{.payload = payload};
  if (world.size() == 1) return times;
  bool right = time_all_reduce(world, device, 8, times.all_reduce_small);
  right = time_all_reduce(world, device, payload, times.all_reduce_large) && right;
  right = time_pairs(world, device, payload, times.pairs) && right;
  const at::Tensor slowest =
      at::tensor({times.all_reduce_small, times.all_reduce_large}, at::kDouble);
  world.all_reduce(slowest, ReduceOp::max, Traffic::control).wait();
  times.all_reduce_small = slowest[0].item<double>();
  times.all_reduce_large = slowest[1].item<double>();
  const std::vector<std::int64_t> verdicts = world.all_gather(right ? 1 : 0, Traffic::control);
  const auto wrong = std::find(verdicts.begin(), verdicts.end(), 0);
  if (wrong != verdicts.end()) times.wrong = static_cast<int>(wrong - verdicts.begin());
  return times;
}

std::vector<Check> check_network(const NetworkTimes& times, std::span<const RankPlace> places,
                                 const NetworkLimits& limits) {
  if (times.pairs.empty())
    return {{"network", "results", Verdict::skip, "one rank talks to nobody"}};

  Check results = network_check("results", "what arrives is what was sent");
  if (times.wrong >= 0) {
    results.verdict = Verdict::fail;
    results.seen = fmt::format("{} received wrong numbers", rank_text(places, times.wrong));
    results.remedy =
        "a broken card, driver or MPI: leave the host out, try another transport "
        "(OMPI_MCA_btl=tcp,self; NCCL_P2P_DISABLE=1, NCCL_IB_DISABLE=1)";
  }
  const Check reduce = network_check(
      "all-reduce",
      fmt::format("8 bytes {}, {} {} ({})", time_text(times.all_reduce_small),
                  size_text(static_cast<std::uint64_t>(times.payload)),
                  time_text(times.all_reduce_large),
                  rate_text(static_cast<double>(times.payload) / times.all_reduce_large)));

  const auto slower = [](const PairTimes& a, const PairTimes& b) { return a.median < b.median; };
  const auto [quickest, slowest] =
      std::minmax_element(times.pairs.begin(), times.pairs.end(), slower);
  double least = slowest->fastest;
  for (const PairTimes& pair : times.pairs) least = std::min(least, pair.fastest);
  Check latency = network_check(
      "latency", fmt::format("{} at best, median {} to {} between neighbours", time_text(least),
                             time_text(quickest->median), time_text(slowest->median)));
  if (slowest->median > limits.latency) {
    latency.verdict = Verdict::warn;
    latency.seen += ", " + pair_text(*slowest, places);
    latency.remedy =
        "slow network, or ranks that wait for a core (see CPU threads): check which interface is "
        "used (OMPI_MCA_btl_tcp_if_include, NCCL_SOCKET_IFNAME), or raise --network.latency";
  }

  const auto thinner = [](const PairTimes& a, const PairTimes& b) {
    return a.bandwidth < b.bandwidth;
  };
  const auto [thin, wide] = std::minmax_element(times.pairs.begin(), times.pairs.end(), thinner);
  Check bandwidth = network_check(
      "bandwidth", fmt::format("{} to {} between neighbours", rate_text(thin->bandwidth),
                               rate_text(wide->bandwidth)));
  if (thin->bandwidth < limits.bandwidth) {
    bandwidth.verdict = Verdict::warn;
    bandwidth.seen += ", " + pair_text(*thin, places);
    bandwidth.remedy =
        "check which interface is used (OMPI_MCA_btl_tcp_if_include, NCCL_SOCKET_IFNAME) and "
        "that RDMA is on, or lower --network.bandwidth";
  }
  return {results, reduce, latency, bandwidth, check_outliers(times, places, limits)};
}

}  // namespace graphlora::doctor
