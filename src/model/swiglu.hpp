// The gated unit between gate_up_proj and down_proj.
// Shapes: T tokens, I intermediate.
#pragma once
#include <torch/types.h>

namespace graphlora {

/// gate_up_T2I (gate first, then up) → silu(gate)∘up, (T, I). On the CPU or CUDA, local,
/// differentiable; saves its input only.
at::Tensor swiglu(const at::Tensor& gate_up_T2I);

}  // namespace graphlora
