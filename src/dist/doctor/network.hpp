// How fast ranks talk, over what training talks over, and which of them are slow.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

/// Messages to and fro between two neighbours.
struct PairTimes {
  int first = 0, second = 0;
  double fastest = 0, median = 0;  ///< seconds one way, 8 bytes
  double bandwidth = 0;            ///< bytes per second one way, of the payload, the best of a few
};

struct NetworkTimes {
  double all_reduce_small = 0;        ///< seconds, 8 bytes, median
  double all_reduce_large = 0;        ///< seconds, the payload, median
  std::int64_t payload = 0;           ///< bytes
  std::vector<PairTimes> pairs = {};  ///< each rank and the next one, in rank order
  int wrong = -1;                     ///< the lowest rank that received wrong numbers; −1: none
};

/// Times `world` with tensors on `device`; the same on all ranks. Takes about a second and a half,
/// longer where `payload` bytes (8 or more) take over 100 ms. Collective.
NetworkTimes measure_network(Communicator& world, at::Device device, std::int64_t payload);

struct NetworkLimits {
  double latency = 0;    ///< seconds; a slower pair is a warning
  double bandwidth = 0;  ///< bytes per second; a slower pair is a warning
  double outlier = 0;    ///< a pair this many times slower than the median of its kind is one
};

/// Checks of group "network": "results" (the numbers that arrive are right), "all-reduce",
/// "latency", "bandwidth" and "outliers", which are named by rank and host; pairs within a host are
/// compared with each other, and so are those between hosts.
std::vector<Check> check_network(const NetworkTimes& times, std::span<const RankPlace> places,
                                 const NetworkLimits& limits);

}  // namespace graphlora::doctor
