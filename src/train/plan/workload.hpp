// What is to be trained: sizes of graph, prompts and model, from a dataset or from its statistics.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "data/dataset.hpp"
#include "graph/partition.hpp"
#include "train/recommender.hpp"

namespace graphlora::plan {

/// The graph's share of one of P ranks, as even as it comes.
struct Share {
  double owned = 0, entries = 0, halo = 0, sent = 0;  ///< the largest rank's
  std::string source;                                 ///< where these numbers are from
};

struct Workload {
  std::int64_t users = 0, items = 0, edges = 0;
  double tokens_per_example = 0, tokens_per_title = 0;
  std::int64_t embedding_width = 256;
  std::int64_t groups = 8;
  double share_of_random_halo = 1;
  /// Number of nodes of each degree; of statistics: users and items, of mean degree each.
  std::map<double, double> degrees = {};
  std::map<std::int64_t, nlohmann::json> partitions = {};  ///< reports by parts
  std::string source;
  std::int64_t nodes() const { return users + items; }
  /// From the report of that very partition, else from the degrees: halo rows of a random one,
  /// times share_of_random_halo.
  Share share(std::int64_t ranks) const;
};

/// Keys users, items, edges, tokens_per_example, embedding_width and, if known, tokens_per_title,
/// share_of_random_halo, groups. Throws DataError naming the file and the key.
Workload read_statistics(const std::filesystem::path& path);

/// Of a dataset, with the prompts of up to 1,000 training rows and all its partition reports.
/// `pretrained` tells the width of E; empty: 256. Throws DataError, ConfigError. Local.
Workload workload_of(const std::filesystem::path& data, const std::filesystem::path& model,
                     const std::filesystem::path& pretrained, const ModelConfig& config,
                     const PartitionConfig& partition);

}  // namespace graphlora::plan
