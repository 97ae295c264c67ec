// A frozen linear with low-rank adapters on slices of its outputs, and the place where z enters.
// Shapes: T tokens, I inputs, O outputs, r rank, K adapted slices, R = K·r, C adapted outputs, A
// anchors.
#pragma once
#include <torch/types.h>

#include <vector>

#include "model/dropout.hpp"

namespace graphlora {

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
};

/// Dropout of the adapters' input.
struct AdapterDropout {
  DropoutKey key;
  std::int64_t layer = 0;
  InputGroup group = InputGroup::qkv;
  at::Tensor streams_T, positions_T;  ///< i64
};

/// y = x·Wᵀ (+ residual), and on each adapted slice y += (α/r)·h·Bᵀ with h = A·dropout(x), at
/// anchors h = λ_lora·A·dropout(x) + λ_gnn·z. The base product runs in x's type, everything of the
/// adapters in fp32 (fp64 for fp64) with A rounded to x's type; one rounding after the sum. x_TI,
/// weight_OI, residual_TO (may be undefined) of one type. CPU, local, differentiable in x,
/// residual, a, b, z and the λ.
at::Tensor lora_linear(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                       const at::Tensor& residual_TO, const StackedAdapters& adapters,
                       const Injection& injection, const AdapterDropout& dropout);

}  // namespace graphlora
