// Whether all ranks see one directory: checkpoints are written by many and read by all.
#pragma once
#include <chrono>
#include <filesystem>
#include <span>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

/// Checks of group "files": "shared" (a file that rank 0 writes in `directory` is seen by every
/// rank within `patience`, and a file of every rank by rank 0) and "shared lock" (a lock that rank
/// 0 holds keeps the others out). Collective; skips where `directory` can't be written to by rank
/// 0.
std::vector<Check> check_shared_directory(Communicator& world,
                                          const std::filesystem::path& directory,
                                          std::span<const RankPlace> places,
                                          std::chrono::milliseconds patience);

}  // namespace graphlora::doctor
