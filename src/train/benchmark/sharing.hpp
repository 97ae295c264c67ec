// Whether ranks share cores or GPUs: then times tell that things work, not how they scale.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "dist/rank_map.hpp"

namespace graphlora::benchmark {

/// What results of ranks that share are labelled with.
inline constexpr const char* kFunctional = "functional, not scaling";

/// What ranks share, in one line: "4 threads of 4 ranks on 2 cores of n1"; empty where each has
/// cores (for all its threads) and a GPU of its own. `threads`, `gpus`: of every rank; a GPU is
/// named alike by ranks that share it, and empty where a rank computes on the CPU. `quota`: cores'
/// worth of time that a rank's control group allows, 0: no limit.
std::string what_is_shared(std::span<const RankPlace> places, std::span<const int> threads,
                           std::span<const double> quotas, std::span<const std::string> gpus);

/// The same of this job's ranks. Collective.
std::string what_is_shared(Job& job, std::span<const RankPlace> places);

}  // namespace graphlora::benchmark
