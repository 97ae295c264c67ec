// The symmetric 0/1 adjacency over training positives, in memory of one process (rank 0, before
// partitioning).
#pragma once
#include <cstdint>
#include <vector>

#include "data/dataset.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// CSR over N nodes, both directions stored, each (user, item) once; entries of a row sorted by
/// (group, column).
struct BipartiteGraph {
  std::int64_t nodes = 0;
  std::vector<std::int64_t> row_offsets;  ///< N+1
  std::vector<std::int32_t> col;          ///< global node ids
  std::vector<std::uint16_t> group;       ///< of each entry
  std::int64_t edges() const { return static_cast<std::int64_t>(col.size()) / 2; }
};

/// Liked training rows as edges. Throws DataError beyond 2^31-1 nodes.
BipartiteGraph build_training_graph(const Dataset& dataset, const CutRule& cut);

}  // namespace graphlora
