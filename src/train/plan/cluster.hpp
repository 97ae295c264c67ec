// A cluster, as its file describes it: what a device computes, holds and sends.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "train/plan/quantity.hpp"

namespace graphlora::plan {

/// A message of n bytes takes latency + n / bandwidth.
struct Link {
  double latency = 0;    ///< seconds
  double bandwidth = 0;  ///< bytes per second, of one device
};

struct Cluster {
  std::string name, type;
  bool gpu = true;
  std::int64_t nodes = 1, per_node = 1;  ///< devices (ranks) of a node
  double memory = 0;                     ///< bytes of one device
  double program = 0;                    ///< bytes that the program itself takes of it
  double heap = 0;               ///< what the heap keeps beside activations, as a share of them
  double matrix_rate = 0;        ///< FLOP/s of one device, at best
  Curve matrix_efficiency;       ///< share of it that the decoder reaches, by tokens of a pack
  double memory_bandwidth = 0;   ///< bytes per second
  double memory_efficiency = 1;  ///< share of it that passes over E reach
  double edges = 0;              ///< entries of the graph per second at 8 numbers a row
  double loading = 0;            ///< tokens of prompts per second
  double overhead = 0;           ///< seconds of a step that nothing else accounts for
  double pack_overhead = 0;      ///< seconds of a pack whatever its size
  Link within, between;          ///< links of a node and of the network
  std::int64_t devices() const { return nodes * per_node; }
  /// The slowest link that these many ranks talk over.
  const Link& link(std::int64_t ranks) const { return ranks > per_node ? between : within; }
};

/// Reads an INI file (docs/plan.md). Throws ConfigError naming the file and the key: one missing or
/// unknown, a value without its unit or impossible.
Cluster read_cluster(const std::filesystem::path& path);

}  // namespace graphlora::plan
