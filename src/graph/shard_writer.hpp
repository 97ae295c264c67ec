// Writes a part of the graph as part-XXXXX.safetensors (docs: formats, "Partition").
// Shapes: n owned nodes, h halo nodes, P parts, G cut groups, S rows to send.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "graph/bipartite_graph.hpp"

namespace graphlora {

/// Version of a partition's format that this program writes and reads.
inline constexpr int kPartitionVersion = 2;
/// Most parts of a partition: its report and its send lists grow with their square.
inline constexpr std::int64_t kMaxParts = 4096;

/// Turns global adjacency into local one, part by part. Keeps references; memory: 14 bytes a node
/// beside the part at hand.
class ShardWriter {
 public:
  ShardWriter(const BipartiteGraph& graph, const std::vector<std::int32_t>& owner, int parts,
              int groups);
  /// Writes part `part` to DIRECTORY/part-XXXXX.safetensors. Throws DataError.
  void write(const std::filesystem::path& directory, int part,
             const std::map<std::string, std::string>& metadata);

 private:
  const BipartiteGraph& graph_;
  const std::vector<std::int32_t>& owner_;
  int parts_, groups_;
  std::vector<std::int64_t> part_offsets_;  // nodes of each part in part_nodes_
  std::vector<std::int32_t> part_nodes_;
  std::vector<std::int32_t> local_;         // local index of the nodes that the part at hand uses
  std::vector<std::uint16_t> first_group_;  // of the foreign sources of the part at hand
};

/// part-XXXXX.safetensors
std::string shard_file_name(int part);

}  // namespace graphlora
