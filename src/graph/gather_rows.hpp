// Rows of arbitrary nodes from their owners to the ranks that ask for them, and the adjoint.
#pragma once
#include <torch/types.h>

#include <span>
#include <vector>

#include "dist/communicator.hpp"
#include "graph/shard.hpp"

namespace graphlora {

/// Who sends which rows to whom for one list of node ids per rank. Built collectively, used for any
/// width.
class GatherPlan {
 public:
  /// `nodes`: what this rank wants, in order, repeats allowed, possibly none. Collective.
  GatherPlan(Communicator& world, const NodeMap& map, std::span<const std::int64_t> nodes);

  /// Local rows this rank sends, concatenated by receiving rank (i64).
  const at::Tensor& send_rows(at::Device device = at::kCPU) const { return send_rows_.to(device); }
  /// Rows picked by send_rows (one per entry) → the rows this rank asked for, in its order.
  /// Collective.
  at::Tensor forward(const at::Tensor& picked_SC, Traffic traffic) const;
  /// Adjoint of `forward`: gradients of the rows asked for → gradients of the picked rows.
  /// Collective.
  at::Tensor adjoint(const at::Tensor& grad_AC, Traffic traffic) const;

 private:
  Communicator& world_;
  DeviceTensor send_rows_, order_, inverse_order_;
  std::vector<std::int64_t> send_counts_, receive_counts_;
};

}  // namespace graphlora
