// Root-mean-square normalization with a frozen weight.
// Shapes: T tokens, H hidden.
#pragma once
#include <torch/types.h>

namespace graphlora {

/// A residual stream and its normalization. `stream` is the input itself: who adds to it later must
/// use this one, so that the backward meets both gradients in one pass.
struct Normalized {
  at::Tensor stream_TH, normed_TH;
};

/// normed = x / sqrt(mean(x²) + eps) · weight, per row. Any floating dtype (weight's is x's),
/// arithmetic in fp32 (fp64 for fp64). On the CPU or CUDA, local, differentiable in x.
Normalized rms_norm(const at::Tensor& x_TH, const at::Tensor& weight_H, double eps);

}  // namespace graphlora
