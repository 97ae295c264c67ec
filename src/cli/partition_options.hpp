// Options of how the graph is cut, which partition and train share.
#pragma once
#include <string>

#include "core/options.hpp"
#include "graph/partition.hpp"

namespace graphlora {

/// Adds --graph.cut, --graph.groups and --partition.method, .hubs and .max-degree to `group`.
void add_partition_options(OptionTable& table, const std::string& group, PartitionConfig& config);

}  // namespace graphlora
