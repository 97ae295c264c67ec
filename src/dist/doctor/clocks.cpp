#include "dist/doctor/clocks.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <limits>

#include "dist/doctor/gather.hpp"
#include "dist/doctor/message.hpp"

namespace graphlora::doctor {
namespace {

constexpr int kTrips = 20;

std::string time_text(double seconds) {
  return std::abs(seconds) < 1 ? fmt::format("{:.3f} ms", 1e3 * seconds)
                               : fmt::format("{:.3f} s", seconds);
}

}  // namespace

double wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::vector<ClockOffset> measure_clocks(Communicator& world, std::span<const int> ranks,
                                        const std::function<double()>& clock) {
  const at::Tensor time = at::zeros({1, 1}, at::kDouble);
  std::vector<ClockOffset> offsets;
  for (const int rank : ranks) {
    ClockOffset best{.rank = rank, .uncertainty = std::numeric_limits<double>::infinity()};
    const bool asks = world.rank() == 0, answers = world.rank() == rank;
    for (int trip = 0; trip < kTrips; ++trip) {
      const double sent = clock();
      message(world, time, asks ? rank : -1, answers ? 0 : -1);
      if (answers) time.fill_(clock());
      message(world, time, answers ? 0 : -1, asks ? rank : -1);
      const double back = clock();
      if (asks && (back - sent) / 2 < best.uncertainty) {
        best.uncertainty = (back - sent) / 2;
        best.seconds = time.item<double>() - (sent + back) / 2;
      }
    }
    const at::Tensor result = at::tensor({best.seconds, best.uncertainty}, at::kDouble);
    world.broadcast(result, 0, Traffic::control).wait();
    best.seconds = result[0].item<double>();
    best.uncertainty = result[1].item<double>();
    offsets.push_back(best);
  }
  return offsets;
}

Check check_clocks(std::span<const ClockOffset> offsets, std::span<const RankPlace> places,
                   double limit) {
  Check check{"clock", "skew", Verdict::skip, "all ranks share a host"};
  const ClockOffset* farthest = nullptr;
  for (const ClockOffset& offset : offsets)
    if (farthest == nullptr || std::abs(offset.seconds) > std::abs(farthest->seconds))
      farthest = &offset;
  if (farthest == nullptr) return check;
  check.verdict = Verdict::pass;
  check.seen =
      fmt::format("{} is {} {} of rank 0, known to {}", rank_text(places, farthest->rank),
                  time_text(std::abs(farthest->seconds)),
                  farthest->seconds < 0 ? "behind" : "ahead", time_text(farthest->uncertainty));
  if (std::abs(farthest->seconds) - farthest->uncertainty > limit) {
    check.verdict = Verdict::warn;
    check.remedy = "times in logs and of files mislead: run chrony or NTP on the hosts";
  }
  return check;
}

}  // namespace graphlora::doctor
