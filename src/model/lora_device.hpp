// The adapters' side of lora_linear on a device: products by ATen, what is element-wise by loops.
// Shapes: T tokens, I inputs, O outputs, r rank, K adapted slices, R = K·r, C adapted outputs.
#pragma once
#include <torch/types.h>

#include <span>
#include <vector>

#include "model/lora_linear.hpp"

namespace graphlora {

/// u_TR = (m∘x)·Aᵀ in u's type. a_RI: in u's type, of numbers that x's type holds exactly. The
/// first column of x is feature `first_input` of the mask.
void project_on_device(const at::Tensor& x_TI, const at::Tensor& a_RI,
                       const AdapterDropout& dropout, std::int64_t first_input, at::Tensor& u_TR);

/// y_TO += h·Bᵀ on every slice, Bᵀ of slice k being b_transposed[k] (r, slice's outputs).
void expand_on_device(const at::Tensor& h_TR, const std::vector<at::Tensor>& b_transposed,
                      std::span<const StackedAdapters::Slice> slices, at::Tensor& y_TO);

/// g_TR = dy·B per slice; returns dB (C, r) = dyᵀ·h if h_TR is defined.
at::Tensor expand_backward_on_device(const at::Tensor& dy_TO,
                                     const std::vector<at::Tensor>& b_transposed,
                                     std::span<const StackedAdapters::Slice> slices,
                                     const at::Tensor& h_TR, at::Tensor& g_TR);

/// dx_TI += m∘(du·A) if it is defined; returns dA = duᵀ·(m∘x) if x_TI is defined.
at::Tensor project_backward_on_device(const at::Tensor& x_TI, const at::Tensor& a_RI,
                                      const AdapterDropout& dropout, std::int64_t first_input,
                                      const at::Tensor& du_TR, at::Tensor& dx_TI);

}  // namespace graphlora
