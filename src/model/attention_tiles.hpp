// Attention over a pack in bf16 by the CPU's matrix unit.
// Shapes: T tokens, S queries, N heads, G kv heads, D head_dim.
#pragma once
#include <torch/types.h>

#include <tuple>

#include "model/attention_device.hpp"

namespace graphlora {

/// Whether the functions below take these: bf16 on a CPU with a matrix unit for it (AMX), a
/// head_dim of whole tiles, Shortcut::attention_tiles not off.
bool attention_tiles_fit(const at::Tensor& q_SND);

/// Products in bf16 summed in fp32, softmax in fp32; probabilities are rounded to bf16 between, as
/// flash kernels do. q_SND, k_TGD, v_TGD contiguous → (o_SND, log-sum-exp of the scores, fp32 SN).
/// `window` > 0: a query sees that many keys, itself included.
std::tuple<at::Tensor, at::Tensor> tile_attention(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                                                  const at::Tensor& v_TGD,
                                                  const PackQueries& queries, std::int64_t window);
/// Its adjoint: (dq, dk, dv). Probabilities and their gradients are rounded to bf16 before they are
/// multiplied.
std::tuple<at::Tensor, at::Tensor, at::Tensor> tile_attention_backward(
    const at::Tensor& d_o_SND, const at::Tensor& q_SND, const at::Tensor& k_TGD,
    const at::Tensor& v_TGD, const at::Tensor& log_sum_SN, const PackQueries& queries,
    std::int64_t window);

}  // namespace graphlora
