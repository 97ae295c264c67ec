// Attention over a pack: causal along each prompt's segments, never T x T.
// Shapes: T tokens, S queries, N heads, G kv heads, D head_dim.
#pragma once
#include <torch/types.h>

#include <span>
#include <vector>

#include "data/pack.hpp"
#include "model/attention_device.hpp"

namespace graphlora {

/// Which tokens of a pack are queries and what they see: checked once and the same in all layers,
/// which share what a device reads of it. Copies share it too.
class AttentionPlan {
 public:
  /// Every token of the segments is a query. Throws c10::Error unless segments follow each other
  /// without gaps, parents before their children.
  AttentionPlan(const std::vector<Segment>& segments);
  /// Queries at single tokens, at most one a segment: row s of q is that of token tokens_S[s].
  AttentionPlan(const std::vector<Segment>& segments, std::span<const std::int64_t> tokens_S);

  std::int64_t tokens() const { return tokens_; }
  std::int64_t queries() const { return queries_; }
  const c10::intrusive_ptr<PackQueries>& places() const { return places_; }

 private:
  std::int64_t tokens_ = 0, queries_ = 0;
  c10::intrusive_ptr<PackQueries> places_;
};

/// q_SND, k_TGD, v_TGD (rotary applied) → o_SND. A query sees its own key and those before it in
/// its segment and all of the segment's ancestors, with a `window` above 0 the last `window` of
/// these; keys that no query of a block of 32 sees cost nothing. Softmax in fp32 (fp64 for fp64).
/// Local, differentiable: the backward recomputes probabilities per segment from q, k, v and the
/// saved log-sum-exp, and a shared key's gradient is the sum over all segments below. On CUDA bf16
/// goes through LibTorch's flash kernels where they fit (the order of their backward's sums is not
/// fixed, nor that of sums over shared keys), and on a CPU with a matrix unit through
/// attention_tiles, where they fit.
at::Tensor attention(const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                     const AttentionPlan& plan, std::int64_t window = 0);

}  // namespace graphlora
