// Cuts the graph into one part per rank with METIS, and writes partition-P/.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "graph/bipartite_graph.hpp"

namespace graphlora {

struct PartitionConfig {
  std::int64_t parts = 1;
  std::string method = "metis";  ///< metis | random
  std::string cut =
      "auto";  ///< window | fold | none; auto: window under a `time` split, fold under `user-time`
  std::int64_t groups = 8;
  std::int64_t max_degree = 0;  ///< METIS sees each user's c least popular items only; 0: all
  std::int64_t seed = 1;
};

/// Part of every node. metis: k-way, two balance constraints (nodes, edges), fixed seed; random:
/// seeded shuffle.
std::vector<std::int32_t> partition_nodes(const BipartiteGraph& graph,
                                          const PartitionConfig& config);

/// Builds the graph, cuts it, writes DATA/partition-P/ atomically (shards and partition.json with
/// the report beside a random partition). Returns the report. Local to one process. Throws
/// ConfigError, DataError.
nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config);
/// The same for given owners (tests: empty parts, one part that holds everything).
nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config,
                               const CutRule& cut, const BipartiteGraph& graph,
                               const std::vector<std::int32_t>& owner,
                               const std::filesystem::path& directory);

/// Directory of the partition for P ranks: DATA/partition-P.
std::filesystem::path partition_directory(const Dataset& dataset, int parts);

/// True if the directory holds a partition of this very dataset with these options. A damaged one
/// is a DataError.
bool partition_is_current(const Dataset& dataset, const PartitionConfig& config);

}  // namespace graphlora
