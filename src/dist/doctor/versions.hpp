// Whether all ranks run the same program with the same libraries.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

struct Software {
  std::string program = {};  ///< SHA-256 of the executable file
  /// File name to build id, or size where it has none.
  std::map<std::string, std::string> libraries = {};
  std::string mpi = {}, torch = {};  ///< versions
};

/// Of this process, as loaded now. Local; reads the executable once.
Software own_software();
/// Of every rank. Collective.
std::vector<Software> gather_software(Communicator& world, const Software& own);

/// Checks of group "versions": "program", "MPI", "LibTorch" and "libraries": every other one that
/// two ranks have both loaded. Ranks are compared with rank 0.
std::vector<Check> check_versions(std::span<const Software> software,
                                  std::span<const RankPlace> places);

}  // namespace graphlora::doctor
