// A pack: the examples of one micro-batch, without padding; what they have in common at their start
// may be in it once.
// Shapes: T tokens of the pack, S segments, A anchor positions.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/prompt.hpp"

namespace graphlora {

/// A run of tokens that attends to itself causally and to all tokens of its ancestors. A prompt is
/// a segment and its ancestors; what several prompts begin with is a parent. A parent stands before
/// its children, and what belongs to a segment's children before its next sibling.
struct Segment {
  std::int64_t begin = 0;  ///< first token in the pack
  std::int64_t length = 0;
  std::int64_t first_position = 0;  ///< position in the prompt of the first token (RoPE, dropout)
  std::int64_t parent = -1;         ///< index of the parent segment, -1: none
};

/// What prompts of a pack may have in common.
enum class Sharing : std::uint8_t {
  none,       ///< nothing: all tokens of every prompt are in the pack
  training,   ///< tokens with the same ids, anchors and dropout streams, before `private_from`
  inference,  ///< tokens with the same ids and anchors, for forwards without dropout
};

struct Pack {
  /// What stands at an anchor: the node, and the dataset row of an example that has it.
  struct Anchor {
    std::int64_t node, row;
  };
  std::vector<Segment> segments;
  at::Tensor tokens_T;        ///< i64, 0 at anchors
  at::Tensor positions_T;     ///< i64, position in the prompt
  at::Tensor streams_T;       ///< i64, dropout stream of each token
  at::Tensor anchor_token_A;  ///< i64, token index in the pack of each anchor
  at::Tensor
      anchor_row_A;  ///< i64, row of the step's anchor tensors (see `first_anchor` of make_pack)
  at::Tensor anchor_examples_A;        ///< f64, examples that have each anchor; undefined: one each
  std::vector<Anchor> anchors;         ///< A of them
  at::Tensor last_token_S;             ///< i64, token at which each example is scored
  at::Tensor label_S;                  ///< f32
  std::vector<std::size_t> example_S;  ///< index of each example among the prompts given
  std::int64_t tokens() const { return tokens_T.size(0); }
  std::int64_t examples() const { return label_S.size(0); }
};

/// Packs prompts, which keep their order in S. Anchor a of the pack gets row first_anchor + a.
/// `prefix_stream[i]`: dropout stream of prompt i before `private_from`; behind it the stream is
/// the prompt's row. Beginnings that two prompts share are in the pack once if they are worth a
/// segment. Local.
Pack make_pack(std::span<const Prompt> prompts, std::span<const std::int64_t> prefix_stream,
               std::int64_t first_anchor, Sharing sharing = Sharing::none);

/// All prompts in packs of at most `budget` tokens (at least one example each): consecutive runs,
/// or, with sharing, prompts that begin alike together, so that a pack may end where little is
/// shared once it is half full. Anchors count on from one pack to the next. Local.
std::vector<Pack> make_packs(std::span<const Prompt> prompts,
                             std::span<const std::int64_t> prefix_stream, std::int64_t budget,
                             Sharing sharing);

/// Cuts a list of lengths into consecutive runs of at most `budget` tokens (at least one example
/// each); returns the run boundaries, first 0, last lengths.size(). With `shared`, shared[i] of
/// lengths[i] do not count where i follows i − 1 in its run; a run ends where the least is shared,
/// at half of the budget or later.
std::vector<std::size_t> split_by_budget(std::span<const std::int64_t> lengths, std::int64_t budget,
                                         std::span<const std::int64_t> shared = {});

}  // namespace graphlora
