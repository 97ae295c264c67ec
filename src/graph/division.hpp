// How a graph is divided among parts: the owner of every node, and the hubs.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "graph/bipartite_graph.hpp"

namespace graphlora {

/// A hub is an item whose edges every part works on for its own users, so that neither its row nor
/// its buyers' rows travel on its account (docs/architecture.md). Its owner completes its row.
struct Division {
  Division() = default;
  Division(std::vector<std::int32_t> owner, std::vector<std::int64_t> hubs = {})
      : owner(std::move(owner)), hubs(std::move(hubs)) {}
  std::vector<std::int32_t> owner;  ///< part of every node
  std::vector<std::int64_t> hubs;   ///< node ids of items, in any order
};

/// Throws DataError unless every node has one of `parts` owners and hubs are different items.
void check_division(const BipartiteGraph& graph, const Division& division, std::int64_t parts);

/// What a division costs, on the graph of all training positives.
struct PartitionCost {
  std::int64_t edge_cut = 0;  ///< edges (each once, those of hubs aside) that join two parts
  std::vector<std::int64_t> nodes, users;  ///< per part
  /// Per part, the entries it works on: in-edges of its nodes, those of a hub at the users' owners.
  std::vector<std::int64_t> entries;
  std::vector<std::int64_t> halo_rows;          ///< foreign sources of each part, never hubs
  std::vector<std::vector<std::int64_t>> rows;  ///< rows[p][q]: rows that p sends to q per layer
};
/// Throws DataError as check_division does.
PartitionCost partition_cost(const BipartiteGraph& graph, const Division& division,
                             std::int64_t parts);

}  // namespace graphlora
