// Cuts the graph into one part per rank with METIS, and writes partition-P/.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dist/job.hpp"
#include "graph/division.hpp"

namespace graphlora {

struct PartitionConfig {
  std::int64_t parts = 1;
  std::string method = "metis";  ///< metis | random
  std::string cut = "auto";      ///< window | fold | none; auto: window under a `time` split, fold
                                 ///< under `user-time`
  std::int64_t groups = 8;
  std::int64_t max_degree = 0;  ///< METIS sees each user's c least popular items only; 0: all
  std::string hubs = "0";       ///< k: the k items of highest degree are hubs; auto: as many as pay
  std::int64_t seed = 1;
};

/// Divides the graph. metis: k-way without the hubs, two balance constraints (nodes, entries),
/// fixed seed; nodes that METIS does not see are dealt so that both are even; random: seeded
/// shuffle, dealt in turn. Throws ConfigError (more parts than nodes or kMaxParts, more hubs than
/// items, graph beyond METIS's index type).
Division partition_nodes(const BipartiteGraph& graph, const PartitionConfig& config);

/// Builds the graph, cuts it, writes DATA/partition-P/ atomically (shards and partition.json with
/// the report beside a random partition). Returns the report. Local to one process. Throws
/// ConfigError, DataError.
nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config);
/// The same for a given division (tests: empty parts, one part that holds everything).
nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config,
                               const CutRule& cut, const BipartiteGraph& graph,
                               const Division& division, const std::filesystem::path& directory);

/// Directory of the partition for P ranks: DATA/partition-P.
std::filesystem::path partition_directory(const Dataset& dataset, int parts);

/// Which partition of the dataset in P parts will do where one is there already. same_cut: the cut
/// (kind and groups) is the one asked for, as training needs it. same_division: also method,
/// hubs and max_degree (not the seed, so that runs with other seeds share a partition).
enum class Reuse : std::uint8_t { any, same_cut, same_division };

/// Why DATA/partition-P cannot be used as it is ("is missing", "was cut by …"); nothing if it can.
/// A damaged one is a DataError.
std::optional<std::string> reason_to_partition(const Dataset& dataset,
                                               const PartitionConfig& config, Reuse reuse);

/// Rank 0 builds DATA/partition-P where there is a reason to; the others wait. `parts` must be the
/// world size. Collective; an error on rank 0 is agreed on (Job::agree).
void ensure_partition(Job& job, const Dataset& dataset, const PartitionConfig& config, Reuse reuse);

}  // namespace graphlora
