// Attention over a pack: causal along each prompt's segments, never T x T.
// Shapes: T tokens, S scored tokens, N heads, G kv heads, D head_dim.
#pragma once
#include <torch/types.h>

#include <span>

#include "data/pack.hpp"

namespace graphlora {

/// q_TND, k_TGD, v_TGD (rotary applied) → o_TND. A query sees its own key and those before it in
/// its segment and all of the segment's ancestors, with a `window` above 0 the last `window` of
/// these; keys that no query of a block of 32 sees cost nothing. Softmax in fp32 (fp64 for fp64).
/// Local, differentiable: the backward recomputes probabilities per segment from q, k, v and the
/// saved log-sum-exp, and a shared key's gradient is the sum over all segments below. On CUDA bf16
/// goes through LibTorch's flash kernels where they fit (the order of their backward's sums is not
/// fixed, nor that of sums over shared keys).
at::Tensor attention(const at::Tensor& q_TND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                     std::span<const Segment> segments, std::int64_t window = 0);

/// The same for queries at single tokens, at most one a segment: q_SND is the query of token
/// tokens_S[s] → o_SND.
at::Tensor attention_at(const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                        std::span<const Segment> segments, std::span<const std::int64_t> tokens_S,
                        std::int64_t window = 0);

}  // namespace graphlora
