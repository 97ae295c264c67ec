// Cuts the graph into one part per rank with METIS, and writes partition-P/.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dist/job.hpp"
#include "graph/bipartite_graph.hpp"

namespace graphlora {

struct PartitionConfig {
  std::int64_t parts = 1;
  std::string method = "metis";  ///< metis | random
  std::string cut = "auto";      ///< window | fold | none; auto: window under a `time` split, fold
                                 ///< under `user-time`
  std::int64_t groups = 8;
  std::int64_t max_degree = 0;  ///< METIS sees each user's c least popular items only; 0: all
  std::int64_t seed = 1;
};

/// Part of every node. metis: k-way, two balance constraints (nodes, edges), fixed seed, nodes
/// without edges dealt to the parts with fewest nodes; random: seeded shuffle, dealt in turn.
/// Throws ConfigError (more parts than nodes or kMaxParts, graph beyond METIS's index type).
std::vector<std::int32_t> partition_nodes(const BipartiteGraph& graph,
                                          const PartitionConfig& config);

/// What a partition costs, on the graph of all training positives.
struct PartitionCost {
  std::int64_t edge_cut = 0;                        ///< edges (each once) that join two parts
  std::vector<std::int64_t> nodes, users, entries;  ///< per part; entries: in-edges of its nodes
  std::vector<std::int64_t> halo_rows;              ///< foreign sources of each part
  std::vector<std::vector<std::int64_t>> rows;  ///< rows[p][q]: rows that p sends to q per layer
};
PartitionCost partition_cost(const BipartiteGraph& graph, const std::vector<std::int32_t>& owner,
                             std::int64_t parts);

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

/// Which partition of the dataset in P parts will do where one is there already. same_cut: the cut
/// (kind and groups) is the one asked for, as training needs it. same_division: also method and
/// max_degree (not the seed, so that runs with other seeds share a partition).
enum class Reuse : std::uint8_t { any, same_cut, same_division };

/// Why DATA/partition-P cannot be used as it is ("is missing", "was cut by …"); nothing if it can.
/// A damaged one is a DataError.
std::optional<std::string> reason_to_partition(const Dataset& dataset,
                                               const PartitionConfig& config, Reuse reuse);

/// Rank 0 builds DATA/partition-P where there is a reason to; the others wait. `parts` must be the
/// world size. Collective; an error on rank 0 is agreed on (Job::agree).
void ensure_partition(Job& job, const Dataset& dataset, const PartitionConfig& config, Reuse reuse);

}  // namespace graphlora
