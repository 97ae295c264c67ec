// Where and with what a run was measured.
#pragma once
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "dist/rank_map.hpp"

namespace graphlora::benchmark {

/// Versions ("program", "libraries", "compiler"), hosts (CPU, sockets, cores, memory), GPUs, each
/// rank's place and threads, the Slurm job if there is one, the time. `version`: lines of the
/// program's own versions. Collective; whole on rank 0.
nlohmann::ordered_json environment(Job& job, std::span<const RankPlace> places,
                                   const std::string& version);

}  // namespace graphlora::benchmark
