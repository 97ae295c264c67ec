// Improves a division node by node: even work first, then fewer halo rows.
#pragma once
#include <cstdint>
#include <vector>

#include "graph/bipartite_graph.hpp"
#include "graph/division.hpp"

namespace graphlora {

/// Entries that each node's owner works on: a user's edges to hubs twice, for its own row and for
/// its share of the hub's row; a hub's none. They sum to the graph's entries.
std::vector<std::int32_t> work_of_nodes(const BipartiteGraph& graph,
                                        const std::vector<std::int64_t>& hubs);

/// Moves nodes out of parts that have more than 1.01 times the mean work or 1.05 times the mean
/// number of nodes, those first that cost least halo rows per unit of work; then moves single nodes
/// as long as that saves halo rows and keeps to these limits. Where a few nodes are too heavy for
/// the limit, the result is as near to it as moves of single nodes bring it. Hubs stay. The same
/// input gives the same result. Memory: 4 bytes a node and 6 for each pair of a node and a part
/// among its neighbors.
void refine_division(const BipartiteGraph& graph, std::int64_t parts, Division& division);

}  // namespace graphlora
