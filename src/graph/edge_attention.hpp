// Attention over the in-edges of each target (gat): the softmax is local to the owner, which holds
// all in-edges of its nodes. Shapes: m sources (owned, then halo), t targets, K heads, C width.
#pragma once
#include <torch/types.h>

#include "graph/shard.hpp"

namespace graphlora {

/// out_tKC[i] = Σ_j softmax_j(leaky₀.₂(dst_i + src_j))·value[j] over the in-edges of target i; 0
/// where there are none. value_mKC, src_mK, dst_tK of one floating type. For plans without hubs.
/// Local. Differentiable, sums in a fixed order, on the CPU or on CUDA (on the current stream).
at::Tensor edge_attention(const at::Tensor& value_mKC, const at::Tensor& src_mK,
                          const at::Tensor& dst_tK, const GraphPlan& plan);

}  // namespace graphlora
