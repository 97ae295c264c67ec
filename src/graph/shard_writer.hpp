// Writes a part of the graph as part-XXXXX.safetensors (docs: formats, "Partition").
// Shapes: n owned nodes, k hubs, h halo nodes, P parts, G cut groups, S rows to send.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "graph/bipartite_graph.hpp"
#include "graph/division.hpp"

namespace graphlora {

/// Version of a partition's format that this program writes and reads.
inline constexpr int kPartitionVersion = 2;
/// Most parts of a partition: its report and its send lists grow with their square.
inline constexpr std::int64_t kMaxParts = 4096;

/// Turns global adjacency into local one, part by part. Keeps references; memory: 10 bytes a node
/// and 8 + 4·G a hub beside the part at hand.
class ShardWriter {
 public:
  /// Throws DataError as check_division does.
  ShardWriter(const BipartiteGraph& graph, const Division& division, int parts, int groups);
  /// Writes part `part` to DIRECTORY/part-XXXXX.safetensors. Throws DataError.
  void write(const std::filesystem::path& directory, int part,
             const std::map<std::string, std::string>& metadata);

 private:
  const BipartiteGraph& graph_;
  const std::vector<std::int32_t>& owner_;
  int parts_, groups_;
  std::vector<std::int64_t> part_offsets_;  // nodes of each part in part_nodes_
  std::vector<std::int32_t> part_nodes_;
  std::vector<std::int64_t> hubs_, hub_offsets_;  // by (owner, id); those of each part
  std::vector<std::int32_t> hub_degree_;          // (hub, group): neighbors over all parts
  std::vector<bool> is_hub_;                      // of every node
  std::vector<std::int32_t> local_;               // column of the nodes that the part at hand uses
  std::vector<std::uint16_t> first_group_;        // of the foreign sources of the part at hand
};

/// part-XXXXX.safetensors
std::string shard_file_name(int part);

}  // namespace graphlora
