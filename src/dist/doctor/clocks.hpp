// Clocks of the ranks' hosts against that of rank 0: logs, leases and file times compare them.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

/// How far a rank's clock is ahead of rank 0's.
struct ClockOffset {
  int rank = 0;
  double seconds = 0;
  double uncertainty = 0;  ///< half the shortest round trip, seconds
};

/// Seconds since 1970 of this host.
double wall_clock();

/// Offsets of `ranks` (the same list on every rank), estimated from messages to and fro: the other
/// clock is read at the middle of the shortest round trip. Collective.
std::vector<ClockOffset> measure_clocks(Communicator& world, std::span<const int> ranks,
                                        const std::function<double()>& clock = wall_clock);

/// Check "clock", "skew": a difference over `limit` seconds is a warning.
Check check_clocks(std::span<const ClockOffset> offsets, std::span<const RankPlace> places,
                   double limit);

}  // namespace graphlora::doctor
