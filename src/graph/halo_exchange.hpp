// Halo exchange: rows of foreign source nodes come in, their gradients go home. And the hubs' pair:
// their rows to everyone, their sums from everyone.
// Shapes: n owned rows, k hubs, h halo rows, m = n + k + h sources, C columns.
#pragma once
#include <torch/types.h>

#include "dist/communicator.hpp"
#include "graph/shard.hpp"

namespace graphlora {

/// x_nC → x_(n+h)C: owned rows, then halo rows (rows that do not travel under this plan are 0); for
/// plans without hubs. Collective. Differentiable; adjoint: halo gradients travel back and are
/// added to the owners' rows in a fixed order (by rank, then by send list), owned gradients pass
/// through. `plan` and `world` must outlive the graph of autograd.
at::Tensor halo_exchange(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world);

/// A halo exchange under way: the parts that overlap with computation of interior rows, without
/// autograd. All ranks issue them in the same order.
class HaloTransfer {
 public:
  /// Sends owned rows of x_mC (the first n filled) and fills its halo rows at `wait`.
  static HaloTransfer forward(at::Tensor x_mC, const GraphPlan& plan, Communicator& world);
  /// Sends the halo rows of g_mC home; at `wait` they are added to its first n rows.
  static HaloTransfer adjoint(at::Tensor g_mC, const GraphPlan& plan, Communicator& world);
  void wait();

 private:
  HaloTransfer(const GraphPlan& plan, at::Tensor rows_mC, bool adjoint)
      : plan_(plan), rows_mC_(std::move(rows_mC)), adjoint_(adjoint) {}
  const GraphPlan& plan_;
  at::Tensor rows_mC_, received_;
  bool adjoint_;
  Handle handle_;
};

/// Rows of hubs under way (docs/architecture.md); each kind is the other's adjoint. Nothing where
/// the plan has no hubs. All ranks issue them in the same order.
class HubTransfer {
 public:
  /// Rows of this rank's hubs → hubs_kC, the rows of all hubs.
  static HubTransfer gather(const at::Tensor& own_kC, at::Tensor hubs_kC, const GraphPlan& plan,
                            Communicator& world);
  /// partial_kC, this rank's share of every hub → own_kC, the sums of this rank's hubs.
  static HubTransfer reduce(const at::Tensor& partial_kC, at::Tensor own_kC, const GraphPlan& plan,
                            Communicator& world);
  void wait() { handle_.wait(); }

 private:
  HubTransfer() = default;
  explicit HubTransfer(Handle handle) : handle_(std::move(handle)) {}
  Handle handle_;
};

}  // namespace graphlora
