// Attention over a pack on a device: the flash kernels of LibTorch where they exist, else products
// of padded batches of segments. Shapes: T tokens, S queries, N heads, G kv heads, D head_dim.
#pragma once
#include <torch/types.h>

#include <algorithm>

#include <span>
#include <tuple>
#include <vector>

namespace graphlora {

/// Queries of one segment: rows [row, row + count) of q stand at tokens [token, token + count) of
/// the pack, and see the keys of the segment's path up to their own. The path is the ancestors'
/// tokens, the root's first, and then the segment's own.
struct SegmentQueries {
  std::int64_t begin = 0, length = 0;  ///< the segment's own tokens
  std::int64_t depth = 0;              ///< tokens of its ancestors
  std::int64_t parent = -1;            ///< index among the pack's segments, -1: none
  std::int64_t row = 0, token = 0, count = 0;
  std::int64_t window = 0;  ///< keys a query sees, itself included; 0: all before it

  /// Keys of the path.
  std::int64_t keys() const { return depth + length; }
  /// Place along the path of a token of the segment.
  std::int64_t place(std::int64_t at_token) const { return depth + at_token - begin; }
  /// First place that the query at `at_token` sees.
  std::int64_t first_seen(std::int64_t at_token) const {
    return window == 0 ? 0 : std::max<std::int64_t>(0, place(at_token) - window + 1);
  }
};

/// Exact on any device: softmax in fp32 (fp64 for fp64), scores of a bounded number of queries at a
/// time. q_SND, k_TGD, v_TGD contiguous → o_SND. `window` > 0: a query sees that many keys, itself
/// included.
at::Tensor padded_attention(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                            const at::Tensor& v_TGD, std::span<const SegmentQueries> queries,
                            std::int64_t window);
/// Its adjoint: (dq, dk, dv).
std::tuple<at::Tensor, at::Tensor, at::Tensor> padded_attention_backward(
    const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
    const at::Tensor& d_o_SND, std::span<const SegmentQueries> queries, std::int64_t window);

/// Whether flash_attention takes these: bf16 on a GPU from compute capability 8.0 on, a head_dim
/// that its kernels know, and every token a query.
bool flash_attention_fits(const at::Tensor& q_SND, std::span<const SegmentQueries> queries);

/// The flash kernels' result and what their backward wants of the forward. Where segments have
/// parents the kernels read every path's keys one behind the other: rows `key_rows` of k, at
/// `key_offsets`.
struct FlashAttention {
  at::Tensor o_TND, log_sum, offsets, random_state, unused;
  at::Tensor key_offsets, key_rows;  ///< key_rows undefined: k as it is
  std::int64_t longest = 0, longest_path = 0;
};
FlashAttention flash_attention(const at::Tensor& q_TND, const at::Tensor& k_TGD,
                               const at::Tensor& v_TGD, std::span<const SegmentQueries> queries,
                               std::int64_t window);
std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& d_o_TND, const at::Tensor& q_TND, const at::Tensor& k_TGD,
    const at::Tensor& v_TGD, const FlashAttention& forward, std::int64_t window);

}  // namespace graphlora
