#include "cli/partition_options.hpp"

#include <limits>

namespace graphlora {

void add_partition_options(OptionTable& table, const std::string& group, PartitionConfig& config) {
  table
      .add(group, "graph.cut", &config.cut,
           "edges hidden from a training batch, since they tell its labels: window (later than the "
           "batch), fold (its own fold), none; auto: window under a time split, fold under a "
           "user-time split",
           one_of(config.cut, {"auto", "window", "fold", "none"}))
      .add(group, "graph.groups", &config.groups, "number of windows or folds",
           in_range(config.groups, 1, std::numeric_limits<std::uint16_t>::max()))
      .add(group, "partition.method", &config.method, "metis, or random for comparison",
           one_of(config.method, {"metis", "random"}))
      .add(group, "partition.hubs", &config.hubs,
           "so many items of highest degree are hubs: every rank sums their edges over its own "
           "users, and neither they nor their buyers travel for it; auto: as many as save bytes")
      .add(group, "partition.max-degree", &config.max_degree,
           "METIS sees each user's so many least popular items only, which saves memory; 0: all",
           in_range(config.max_degree, 0, std::numeric_limits<std::int32_t>::max()));
}

}  // namespace graphlora
