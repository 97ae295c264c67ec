// Halo exchange: rows of foreign source nodes come in, their gradients go home.
// Shapes: n owned rows, h halo rows, C columns.
#pragma once
#include <torch/types.h>

#include "dist/communicator.hpp"
#include "graph/shard.hpp"

namespace graphlora {

/// x_nC → x_(n+h)C: owned rows, then halo rows (rows that do not travel under this plan are 0).
/// Collective. Differentiable; adjoint: halo gradients travel back and are added to the owners'
/// rows in a fixed order (by rank, then by send list), owned gradients pass through.
at::Tensor halo_exchange(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world);

}  // namespace graphlora
