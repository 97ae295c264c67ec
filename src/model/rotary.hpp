// Rotary position embedding of query and key heads.
// Shapes: T tokens, D head_dim, P positions, O = stacked heads·D.
#pragma once
#include <torch/types.h>

#include <vector>

namespace graphlora {

/// cos and sin of position·theta^(−2i/D), each (P, D/2), for positions 0…P−1; angles in fp64,
/// stored in fp32 (fp64 for fp64).
struct RotaryTable {
  at::Tensor cos_PD, sin_PD;
  static RotaryTable make(std::int64_t positions, std::int64_t head_dim, double theta,
                          at::ScalarType activation);
  std::int64_t positions() const { return cos_PD.defined() ? cos_PD.size(0) : 0; }
};

/// Splits x_TO into parts of `heads[i]` heads, each (T, heads[i], D), and rotates the first
/// `rotated` of them by their tokens' positions (i64, below table.positions(); HF's layout: halves,
/// not pairs). CPU, local, differentiable; saves no activation.
std::vector<at::Tensor> split_and_rotate(const at::Tensor& x_TO,
                                         const std::vector<std::int64_t>& heads,
                                         std::int64_t rotated, const RotaryTable& table,
                                         const at::Tensor& positions_T);

}  // namespace graphlora
