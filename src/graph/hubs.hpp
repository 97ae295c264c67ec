// Which items to make hubs: those of highest degree, and how many of them.
#pragma once
#include <cstdint>
#include <vector>

#include "graph/bipartite_graph.hpp"
#include "graph/division.hpp"

namespace graphlora {

/// The k items (node ids) of highest degree, ties: lowest id; k from 0 to the number of items.
std::vector<std::int64_t> items_by_degree(const BipartiteGraph& graph, std::int64_t k);

/// Rows that k hubs add to a layer, over all parts: each part sends k partial rows and receives k
/// complete ones (reduce-scatter and all-gather, own rows counted too). None in one part.
std::int64_t hub_exchange_rows(std::int64_t hubs, std::int64_t parts);

/// Halo rows of all parts that these owners mean if the first k of `items` were hubs, for each k
/// from 0 to their number; `items`: all items, as items_by_degree gives them. One pass over the
/// edges.
std::vector<std::int64_t> halo_rows_by_hubs(const BipartiteGraph& graph,
                                            const std::vector<std::int32_t>& owner,
                                            std::int64_t parts,
                                            const std::vector<std::int64_t>& items);

/// Numbers of hubs to choose from: 0, then from 16 on twice as many each time, up to 32,768 or half
/// of the items.
std::vector<std::int64_t> hub_candidates(std::int64_t items);

}  // namespace graphlora
