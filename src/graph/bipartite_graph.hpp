// The symmetric 0/1 adjacency over training positives, in memory of one process (rank 0, before
// partitioning).
#pragma once
#include <cstdint>
#include <vector>

#include "data/dataset.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// CSR over N nodes, both directions stored, each edge once; entries of a row sorted by (group,
/// column).
struct BipartiteGraph {
  struct Edge {
    std::int32_t user, item;  ///< node ids
    std::uint16_t group;
  };

  std::int64_t nodes = 0;
  std::int64_t users = 0;                 ///< nodes 0…users-1 are users, the others items
  std::vector<std::int64_t> row_offsets;  ///< N+1
  std::vector<std::int32_t> col;          ///< global node ids
  std::vector<std::uint16_t> group;       ///< of each entry
  std::int64_t edges() const { return static_cast<std::int64_t>(col.size()) / 2; }
  std::int64_t degree(std::int64_t node) const { return row_offsets[node + 1] - row_offsets[node]; }
};

/// Symmetric CSR of a list of edges in any order. An edge given several times is kept once, with
/// its highest group (the one that hides it longest). Throws DataError on ids out of range and
/// beyond 2^31-1 nodes.
BipartiteGraph build_graph(std::int64_t users, std::int64_t items,
                           const std::vector<BipartiteGraph::Edge>& edges);

/// Liked training rows as edges. Throws DataError beyond 2^31-1 nodes.
BipartiteGraph build_training_graph(const Dataset& dataset, const CutRule& cut);

}  // namespace graphlora
