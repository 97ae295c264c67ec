#include "graph/division.hpp"

#include "core/error.hpp"

namespace graphlora {

void check_division(const BipartiteGraph& graph, const Division& division, std::int64_t parts) {
  if (static_cast<std::int64_t>(division.owner.size()) != graph.nodes) {
    throw DataError("partition: {} owners for {} nodes", division.owner.size(), graph.nodes);
  }
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    if (division.owner[node] < 0 || division.owner[node] >= parts) {
      throw DataError("partition: node {} was given to part {} of {}", node, division.owner[node],
                      parts);
    }
  }
  std::vector<bool> seen(graph.nodes - graph.users, false);
  for (const std::int64_t hub : division.hubs) {
    if (hub < graph.users || hub >= graph.nodes) {
      throw DataError("partition: hub {} is not an item (nodes {} to {})", hub, graph.users,
                      graph.nodes - 1);
    }
    if (seen[hub - graph.users]) throw DataError("partition: hub {} occurs twice", hub);
    seen[hub - graph.users] = true;
  }
}

PartitionCost partition_cost(const BipartiteGraph& graph, const Division& division,
                             std::int64_t parts) {
  check_division(graph, division, parts);
  const auto& owner = division.owner;
  std::vector<bool> is_hub(graph.nodes, false);
  for (const std::int64_t hub : division.hubs) is_hub[hub] = true;
  PartitionCost cost;
  cost.nodes.assign(parts, 0);
  cost.users.assign(parts, 0);
  cost.entries.assign(parts, 0);
  cost.halo_rows.assign(parts, 0);
  cost.rows.assign(parts, std::vector<std::int64_t>(parts, 0));
  std::vector<std::int64_t> last_source(parts, -1);  // node that this part counted last
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    const std::int32_t home = owner[node];
    ++cost.nodes[home];
    cost.users[home] += node < graph.users;
    if (is_hub[node]) continue;
    cost.entries[home] += graph.degree(node);
    for (std::int64_t e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      const std::int32_t neighbor = graph.col[e];
      if (is_hub[neighbor]) {
        ++cost.entries[home];
        continue;
      }
      const std::int32_t away = owner[neighbor];
      if (away == home) continue;
      cost.edge_cut += node < graph.users;
      if (last_source[away] == node) continue;
      last_source[away] = node;
      ++cost.halo_rows[away];
      ++cost.rows[home][away];
    }
  }
  return cost;
}

}  // namespace graphlora
