// Partitions of one dataset for several numbers of ranks, all of the same cut of the graph.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>

#include "graph/partition.hpp"

namespace graphlora::benchmark {

/// Cuts the dataset's graph into the largest of `ranks` parts, and gives each other number of
/// ranks, which must divide it (ConfigError), a partition of neighbouring parts together. They
/// stand in `directory`, made anew, with links to the dataset's files: a dataset for training.
/// Local.
void write_fixed_partitions(const std::filesystem::path& data, PartitionConfig config,
                            std::span<const std::int64_t> ranks,
                            const std::filesystem::path& directory);

}  // namespace graphlora::benchmark
