// E: the collaborative embeddings of this rank's nodes, and the forms their gradient takes.
// Shapes: n owned rows, D = d_e, r rank, S sparse rows.
#pragma once
#include <torch/types.h>

namespace graphlora {

/// Gradient of E on this rank: dense_nD (if defined) + low_rank_nr · factor_rD (if defined) +
/// sparse rows added at `sparse_rows_S` (repeats add up). The N x D sum is never materialized.
struct EmbeddingGradient {
  at::Tensor dense_nD;
  at::Tensor low_rank_nr, factor_rD;
  at::Tensor sparse_rows_S, sparse_SD;  ///< i64 local rows; values

  /// ‖dE‖² of this rank's rows, f64 scalar tensor, by the expansion of design section 3 step 5.
  at::Tensor squared_norm() const;
  /// Rows [begin, end) of the gradient.
  at::Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// Everything multiplied by `factor` (in place where possible): the clip.
  void scale_(double factor);
};

/// Rows of nodes without training interactions are exactly 0 and stay so until trained.
struct EmbeddingTable {
  at::Tensor weight_nD;                  ///< Precision::parameter, no autograd
  at::Tensor exp_avg_nD, exp_avg_sq_nD;  ///< AdamW moments of the rows; undefined under sgd
};

}  // namespace graphlora
