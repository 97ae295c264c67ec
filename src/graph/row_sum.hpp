// Sums of rows over index lists: the one kernel behind propagation, its adjoint and the halo's.
// Shapes: m rows of x, k rows of the lists, C columns.
#pragma once
#include <torch/types.h>

#include "graph/shard.hpp"

namespace graphlora {

/// out_kC[i] = (init_kC[i] +) Σ over the lists of row i of x_mC[index], for rows [first, last) of
/// the lists; rows of x from `limit` on count as zero. Fixed order, no atomics; `out` may be
/// `init`. Contiguous, f32 or f64, on the CPU or on CUDA (on the current stream). Local.
void row_sum(const RowLists& lists, const at::Tensor& x_mC, std::int64_t limit,
             const at::Tensor& init_kC, const at::Tensor& out_kC, std::int64_t first,
             std::int64_t last);

}  // namespace graphlora
