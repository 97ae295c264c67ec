// E: the collaborative embeddings of this rank's nodes, and the forms their gradient takes.
// Shapes: n owned rows, D = d_e, r rank, S sparse rows.
#pragma once
#include <torch/types.h>

namespace graphlora {

/// Gradient of E on this rank: low_rank_nr · factor_rD plus dense_nD plus `sparse_SD` at the rows
/// `sparse_rows_S`, those of the three that are defined. Their sum is never materialized.
struct EmbeddingGradient {
  at::Tensor low_rank_nr, factor_rD;
  at::Tensor dense_nD;                  ///< of all owned rows
  at::Tensor sparse_rows_S, sparse_SD;  ///< i64 local rows, ascending, each once; their values;
                                        ///< both where E is

  /// Sets the sparse part from rows in any order with repeats: equal rows are summed in the order
  /// given.
  void set_sparse(const at::Tensor& rows_S, const at::Tensor& values_SD);
  /// ‖dE‖² of this rank's rows as f64: without a dense part Σ p(W·Wᵀ)pᵀ + Σ_s (2·p·W·sᵀ + ‖s‖²).
  double squared_norm() const;
  /// Rows [begin, end) of the gradient, (end − begin, D), written to `out` of that shape.
  void rows(std::int64_t begin, std::int64_t end, at::Tensor& out) const;
  /// Everything multiplied by `factor`: the clip.
  void scale_(double factor);
};

/// Rows of nodes without training interactions are exactly 0 and stay so until trained.
struct EmbeddingTable {
  at::Tensor weight_nD;                  ///< Precision::parameter, no autograd
  at::Tensor exp_avg_nD, exp_avg_sq_nD;  ///< AdamW moments of the rows; undefined under sgd
};

}  // namespace graphlora
