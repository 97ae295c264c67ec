// A pack: the examples of one micro-batch, one behind the other, without padding.
// Shapes: T tokens of the pack, S segments, A anchor positions.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/prompt.hpp"

namespace graphlora {

/// A run of tokens that attends to itself causally and to all tokens of its ancestors. Packing is
/// segments without parents; a shared prefix is a parent.
struct Segment {
  std::int64_t begin = 0;  ///< first token in the pack
  std::int64_t length = 0;
  std::int64_t first_position = 0;  ///< position in the prompt of the first token (RoPE, dropout)
  std::int64_t parent = -1;         ///< index of the parent segment, -1: none
};

struct Pack {
  std::vector<Segment> segments;
  at::Tensor tokens_T;        ///< i64, 0 at anchors
  at::Tensor positions_T;     ///< i64, position in the prompt
  at::Tensor streams_T;       ///< i64, dropout stream of each token
  at::Tensor anchor_token_A;  ///< i64, token index in the pack of each anchor
  at::Tensor
      anchor_row_A;  ///< i64, row of the step's anchor tensors (see `first_anchor` of make_pack)
  at::Tensor last_token_S;          ///< i64, token at which each example is scored
  at::Tensor label_S;               ///< f32
  std::vector<std::int64_t> row_S;  ///< dataset row of each example
  std::int64_t tokens() const { return tokens_T.size(0); }
  std::int64_t examples() const { return label_S.size(0); }
};

/// Packs prompts in order. Anchor a of the pack gets row first_anchor + a. `prefix_stream[i]`:
/// dropout stream of prompt i before `private_from`; behind it the stream is the prompt's row.
/// Local.
Pack make_pack(std::span<const Prompt> prompts, std::span<const std::int64_t> prefix_stream,
               std::int64_t first_anchor);

/// Cuts a list of lengths into consecutive runs of at most `budget` tokens (at least one example
/// each); returns the run boundaries, first 0, last lengths.size().
std::vector<std::size_t> split_by_budget(std::span<const std::int64_t> lengths,
                                         std::int64_t budget);

}  // namespace graphlora
