// Which host, device and cores every rank has: what to look at first when a job is slow.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "dist/job.hpp"

namespace graphlora {

/// Where one rank runs.
struct RankPlace {
  std::string host;
  /// "cpu", or the rank's own name of its GPU with the address that tells a host's GPUs apart:
  /// "cuda:0 (NVIDIA H200, 0000:1b:00.0)".
  std::string device;
  /// The cores that it may use, ascending; empty where the system does not tell.
  std::vector<int> cores;
};

/// Cores of this process' affinity mask, ascending; empty where the system does not tell. Local.
std::vector<int> affinity_cores();

/// Every rank's place in rank order, the same on all ranks; after Job::use_device the device is the
/// one chosen. Collective.
std::vector<RankPlace> gather_rank_map(Job& job);

/// Ranks with equal device and cores share a line, "ranks 0-1 on n1, 2-3 on n2: cpu, cores 0-7", in
/// the order of their first ranks; of more than four hosts the last one and the number are named.
/// At most `most_lines` lines, then one that counts the others. Lines end without a newline.
std::string describe_rank_map(std::span<const RankPlace> places, std::size_t most_lines = 32);

}  // namespace graphlora
