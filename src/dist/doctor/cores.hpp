// The cores that ranks compute on: too few, too many ranks on them, or bound by mistake.
#pragma once
#include <span>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

/// What the ranks of one host compute with, in rank order.
struct CoreUse {
  int threads = 1;   ///< of this rank
  int online = 1;    ///< cores of the host
  double quota = 0;  ///< cores' worth of time that a control group allows; 0: no limit
};

/// This rank's, computing with `threads` threads.
CoreUse own_core_use(int threads);
/// Of every rank. Collective.
std::vector<CoreUse> gather_core_use(Communicator& world, const CoreUse& own);

/// Checks of group "CPU": "threads" (no more than cores), "binding" (no rank is bound to one core
/// where its share of the host is more, and ranks share all of their cores or none) and "quota".
std::vector<Check> check_cores(std::span<const RankPlace> places, std::span<const CoreUse> uses);

}  // namespace graphlora::doctor
