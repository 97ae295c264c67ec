// Rotary position embedding of query and key heads.
// Shapes: T tokens, D head_dim, P positions, O = stacked heads·D.
#pragma once
#include <torch/types.h>

#include <vector>

#include "model/hf_checkpoint.hpp"

namespace graphlora {

/// cos and sin of position·f_i, each (P, D/2), for positions 0…P−1: f_i = theta^(−2i/D), stretched
/// as RopeScaling says. Angles in fp64, stored in fp32 (fp64 for fp64).
struct RotaryTable {
  at::Tensor cos_PD, sin_PD;
  static RotaryTable make(std::int64_t positions, std::int64_t head_dim, double theta,
                          at::ScalarType activation, const RopeScaling& scaling = {});
  std::int64_t positions() const { return cos_PD.defined() ? cos_PD.size(0) : 0; }
};

/// RMS norms of each head of the rotated parts, before the rotation (Qwen3).
struct HeadNorms {
  std::vector<at::Tensor> weights_D = {};  ///< per part, x's type; undefined or missing: none
  double eps = 0;
};

/// Splits x_TO into parts of `heads[i]` heads, each (T, heads[i], D), normalizes those that have a
/// norm, and rotates the first `rotated` of them by their tokens' positions (i64, below
/// table.positions(); HF's layout: halves, not pairs); on the CPU in one pass with one rounding. On
/// the CPU or CUDA, local, differentiable in x; saves x only where there are norms.
std::vector<at::Tensor> split_and_rotate(const at::Tensor& x_TO,
                                         const std::vector<std::int64_t>& heads,
                                         std::int64_t rotated, const RotaryTable& table,
                                         const at::Tensor& positions_T,
                                         const HeadNorms& norms = {});

}  // namespace graphlora
