// A frozen linear with low-rank adapters on slices of its outputs, and the place where z enters.
// Shapes: T tokens, I inputs, O outputs, r rank, K adapted slices, R = K·r, C adapted outputs, A
// anchors.
#pragma once
#include <torch/types.h>

#include <vector>

#include "dist/communicator.hpp"
#include "model/dropout.hpp"
#include "model/packed_weights.hpp"

namespace graphlora {

/// How a linear is divided over the ranks of a tensor group: by outputs (q, k, v, gate, up) or by
/// inputs (o, down).
enum class SplitBy : std::uint8_t { none, column, row };

/// The frozen linear under the adapters, or this rank's slice of it.
struct BaseLinear {
  at::Tensor weight_OI;
  at::Tensor bias_O = {};  ///< undefined: none; with SplitBy::row whole, and added once
  SplitBy split = SplitBy::none;
  Communicator* tensor = nullptr;  ///< the ranks that hold the slices; unused without a split
  std::int64_t first_input = 0;    ///< SplitBy::row: the global feature of x's first, for dropout
  PackedWeights* packs = nullptr;  ///< what multiplies by the weight; null: ATen
};

/// Adapters that read one input: the k-th acts on outputs [slices[k].begin, +size), its A is rows
/// k·r… of a_RI, its B the next `size` rows of b_Cr.
struct StackedAdapters {
  struct Slice {
    std::int64_t begin, size;
  };
  at::Tensor a_RI, b_Cr;  ///< Precision::parameter; undefined: no adapter
  std::vector<Slice> slices;
  double scale = 1;  ///< α/r
};

/// z at the anchors of an injection layer; `z_Ar` undefined: no injection.
struct Injection {
  at::Tensor z_Ar;
  at::Tensor lambda_lora, lambda_gnn;  ///< scalars
  at::Tensor token_A;                  ///< i64 rows of x; each at most once
  at::Tensor ratio_sums_2;  ///< f64, or undefined: Σ‖λ_gnn·z‖² and Σ‖λ_lora·A·x‖² are added
  at::Tensor examples_A = {};  ///< f64, how often each anchor counts there; undefined: once
};

/// Dropout of the adapters' input.
struct AdapterDropout {
  DropoutKey key;
  std::int64_t layer = 0;
  InputGroup group = InputGroup::qkv;
  at::Tensor streams_T, positions_T;  ///< i64
};

/// y = x·Wᵀ + bias (+ residual), and on each adapted slice y += (α/r)·h·Bᵀ with h = A·dropout(x),
/// at anchors h = λ_lora·A·dropout(x) + λ_gnn·z. The base product runs in x's type, everything of
/// the adapters in fp32 (fp64 for fp64) with A rounded to x's type; one rounding after the sum.
/// x_TI, weight_OI, residual_TO (may be undefined) of one type. Differentiable in x, residual, a,
/// b, z and the λ.
///
/// SplitBy::column: W and B are slices by outputs, x, A, z and the λ whole and alike on all ranks;
/// each rank gets its outputs. One grouped all-reduce in backward (of the base's dx and of dh), so
/// that every gradient of what is whole is whole. SplitBy::row: x, W and A are slices by inputs, B
/// and residual whole; one grouped all-reduce in forward (of W·x and A·x) gives every rank all of
/// y. Collective over base.tensor where there is a split, else local.
at::Tensor lora_linear(const at::Tensor& x_TI, const BaseLinear& base,
                       const at::Tensor& residual_TO, const StackedAdapters& adapters,
                       const Injection& injection, const AdapterDropout& dropout);

}  // namespace graphlora
