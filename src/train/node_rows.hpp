// Owned rows brought into node order, a range at a time: what writes all nodes' rows without any
// rank holding them all.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "dist/communicator.hpp"

namespace graphlora {

/// Node ids [begin, end).
struct NodeRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

class NodeRows {
 public:
  /// `owned`: i64 node ids of this rank's rows. Local.
  NodeRows(Communicator& world, const at::Tensor& owned);

  /// Rows of the range that this rank asks for, [range, …] in node order, out of every rank's
  /// `rows_nC` (of the owned nodes, in their order). `ranges`: that of each rank, the same list
  /// everywhere, possibly empty ones, disjoint and ascending. Undefined if not every node of the
  /// range is owned once. Collective.
  at::Tensor fetch(const at::Tensor& rows_nC, std::span<const NodeRange> ranges) const;

 private:
  Communicator& world_;
  at::Tensor ids_n_, order_n_;  // ascending, and the row of each
};

}  // namespace graphlora
