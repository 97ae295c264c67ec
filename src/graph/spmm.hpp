// Sparse times dense over a plan: CPU here, CUDA in spmm.cu.
#pragma once
#include <torch/types.h>

#include "graph/shard.hpp"

namespace graphlora {

/// y_nC[i] = Σ over entries (i, j) of the plan of x[j], x_(n+h)C being owned, then halo rows.
/// Local. Differentiable; adjoint: gx[j] = Σ over rows i that use j of gy[i], in a fixed order,
/// without atomics (owned columns by the symmetry of the owned block, halo columns by the plan's
/// transposed lists).
at::Tensor spmm(const at::Tensor& x_mC, const GraphPlan& plan);

/// One propagation of LightGCN, S·x = D^-1/2·A·(D^-1/2·x): the right factor is applied by the owner
/// before rows travel. Collective, differentiable.
at::Tensor propagate_symmetric(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world);

}  // namespace graphlora
