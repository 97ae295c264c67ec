// Propagation over a plan: sparse times dense, with the halo exchange and the hubs inside. CPU
// here, the CUDA kernel in spmm.cu. Shapes: n owned rows, t targets, C columns.
#pragma once
#include <torch/types.h>

#include "graph/shard.hpp"

namespace graphlora {

/// What the adjacency A is scaled with; D are the degrees in the graph in force.
enum class Normalization {
  symmetric,       ///< D^-1/2·A·D^-1/2, 0 rows for isolated nodes
  mean,            ///< D^-1·A, 0 rows for isolated nodes
  with_self_loops  ///< (D+I)^-1/2·(A+I)·(D+I)^-1/2
};

/// x_nC → y_tC, one propagation; right factors are applied by the owner before rows travel. Rows
/// without halo columns are computed while halo rows travel. Collective. Differentiable; adjoint:
/// gx[j] = Σ over targets i that use j of gy[i], in a fixed order, without atomics (owned columns
/// by the plan's out_edges, halo columns by its transposed lists, hubs by the reverse pair of
/// collectives). `plan` and `world` must outlive the graph of autograd.
at::Tensor propagate(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world,
                     Normalization normalization);

/// The adjoint by itself, g_tC → gx_nC, without autograd. Collective.
at::Tensor propagate_adjoint(const at::Tensor& g_tC, const GraphPlan& plan, Communicator& world,
                             Normalization normalization);

}  // namespace graphlora
