// Attention over a pack on a device: the flash kernels of LibTorch where they exist, else products
// of padded batches of segments. Shapes: T tokens, S queries, N heads, G kv heads, D head_dim.
#pragma once
#include <torch/custom_class.h>
#include <torch/types.h>

#include <algorithm>

#include <optional>
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

  /// Keys of the path.
  std::int64_t keys() const { return depth + length; }
  /// Place along the path of a token of the segment.
  std::int64_t place(std::int64_t at_token) const { return depth + at_token - begin; }
  /// First place that the query at `at_token` sees; `window`: how many, itself included, 0: all.
  std::int64_t first_seen(std::int64_t at_token, std::int64_t window) const {
    return window == 0 ? 0 : std::max<std::int64_t>(0, place(at_token) - window + 1);
  }
};

/// A batch of segments and of their queries, B of them with Q queries and K keys each: places of
/// the padded rows among those of q and k, the real rows among the padded ones.
struct PaddedBatch {
  at::Tensor query_BQ, key_BK;  ///< i64 rows; padding repeats a real row
  at::Tensor last_BQ;           ///< i64: the last place along the path that a query sees
  at::Tensor real_queries_S, query_rows_S;  ///< i64: places in B·Q, and their rows of q
  at::Tensor real_keys_T, key_rows_T;       ///< i64: places in B·K, and their rows of k
};

/// Where the flash kernels find segments. Where these have parents they read every path's keys one
/// behind the other: rows `key_rows` of k, at `key_offsets`.
struct FlashPlaces {
  at::Tensor offsets, key_offsets;  ///< i32
  at::Tensor key_rows;              ///< i64; undefined: k as it is
  std::int64_t longest = 0, longest_path = 0;
};

/// The queries of a pack. What a device reads of them is made and copied there when first asked for
/// and then kept, so that all layers of a pack, forward and backward, share it.
class PackQueries : public torch::CustomClassHolder {
 public:
  explicit PackQueries(std::vector<SegmentQueries> segments) : segments_(std::move(segments)) {}
  const std::vector<SegmentQueries>& segments() const { return segments_; }
  /// All queries, a bounded number of scores of `heads` heads in each batch. Batches of the same
  /// segments follow each other.
  const std::vector<PaddedBatch>& batches(std::int64_t heads, at::Device device) const;
  const FlashPlaces& flash(at::Device device) const;

 private:
  /// What was made, and for what.
  template <class Made>
  struct Kept {
    at::Device device;
    std::int64_t heads;
    Made made;
  };
  std::vector<SegmentQueries> segments_;
  mutable std::optional<Kept<std::vector<PaddedBatch>>> batches_;
  mutable std::optional<Kept<FlashPlaces>> flash_;
};

/// Exact on any device: softmax in fp32 (fp64 for fp64), scores of a bounded number of queries at a
/// time. q_SND, k_TGD, v_TGD contiguous → o_SND. `window` > 0: a query sees that many keys, itself
/// included.
at::Tensor padded_attention(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                            const at::Tensor& v_TGD, const PackQueries& queries,
                            std::int64_t window);
/// Its adjoint: (dq, dk, dv).
std::tuple<at::Tensor, at::Tensor, at::Tensor> padded_attention_backward(
    const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
    const at::Tensor& d_o_SND, const PackQueries& queries, std::int64_t window);

/// Whether flash_attention takes these: bf16 on a GPU from compute capability 8.0 on, a head_dim
/// that its kernels know, and every token a query.
bool flash_attention_fits(const at::Tensor& q_SND, const PackQueries& queries);

/// The flash kernels' result and what their backward wants of the forward.
struct FlashAttention {
  at::Tensor o_TND, log_sum, random_state, unused;
};
FlashAttention flash_attention(const at::Tensor& q_TND, const at::Tensor& k_TGD,
                               const at::Tensor& v_TGD, const PackQueries& queries,
                               std::int64_t window);
std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& d_o_TND, const at::Tensor& q_TND, const at::Tensor& k_TGD,
    const at::Tensor& v_TGD, const FlashAttention& forward, const PackQueries& queries,
    std::int64_t window);

}  // namespace graphlora
