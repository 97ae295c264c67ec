// Rows added up by where they belong, in a fixed order and without atomics.
// Shapes: S rows given, U distinct ones, n rows of the target, C columns.
#pragma once
#include <torch/types.h>

namespace graphlora {

struct RowTotals {
  at::Tensor rows_U;   ///< i64 on the CPU, ascending, each once
  at::Tensor sums_UC;  ///< where the values are
};

/// Sums the rows of values_SC whose entries in rows_S (i64 on the CPU, any order, repeats allowed)
/// are equal, in the order given. f32 or f64, on the CPU or on CUDA. Local.
RowTotals sum_equal_rows(const at::Tensor& rows_S, const at::Tensor& values_SC);

/// target_nC[rows_S[s]] += values_SC[s] for all s; rows_S as above, below n.
void add_rows(at::Tensor target_nC, const at::Tensor& rows_S, const at::Tensor& values_SC);

}  // namespace graphlora
