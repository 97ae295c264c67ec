// What the CPU's attention kernels divide a pack into: pieces of trees of segments, times the
// groups of heads that share keys and values.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "model/attention_device.hpp"
#include "model/simd.hpp"

namespace graphlora {

struct AttentionShape {
  std::int64_t heads, groups, dim;
  std::int64_t window;  ///< keys a query sees, 0: all before it
  std::int64_t heads_per_group() const { return heads / groups; }
  /// Numbers of a token's queries, and of its keys.
  std::int64_t q_row() const { return heads * dim; }
  std::int64_t kv_row() const { return groups * dim; }
  /// Of the scores.
  template <class C>
  C scale() const {
    return 1 / std::sqrt(static_cast<C>(dim));
  }
};

inline AttentionShape attention_shape(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                                      std::int64_t window) {
  return {q_SND.size(1), k_TGD.size(1), q_SND.size(2), window};
}

/// Consecutive segments [first, end) of one tree.
struct AttentionPiece {
  std::size_t first, end;
};

/// Tokens of a tree's segments that one task of a forward takes, so that threads share a large
/// tree.
inline constexpr std::int64_t kForwardPieceTokens = 128;
/// A backward's piece is all of a tree: gradients of shared keys add up in one place.
inline constexpr std::int64_t kWholeTree = std::numeric_limits<std::int64_t>::max();

/// Each tree as pieces of `tokens` or a little more, or as one.
inline std::vector<AttentionPiece> attention_pieces(const std::vector<SegmentQueries>& segments,
                                                    std::int64_t tokens) {
  std::vector<AttentionPiece> pieces;
  std::int64_t used = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (i == 0 || segments[i].parent < 0 || used >= tokens) {
      pieces.push_back({i, i});
      used = 0;
    }
    pieces.back().end = i + 1;
    used += segments[i].length;
  }
  return pieces;
}

/// Queries whose scores are in memory at once, times the heads of a group.
inline constexpr std::int64_t kQueryBlock = 32;

/// What turns exp(score − its row's largest) into a probability, and the row's log-sum-exp.
template <class C>
struct AttentionSums {
  C inverse, log_sum;
};

/// Of a piece: the most keys along a segment's path, the most queries of a segment.
struct AttentionMost {
  std::int64_t keys = 0, queries = 0;
};

GRAPHLORA_INLINE AttentionMost most_of(const SegmentQueries* segments,
                                       const AttentionPiece& piece) {
  AttentionMost most;
  for (std::size_t i = piece.first; i < piece.end; ++i) {
    most.keys = std::max(most.keys, segments[i].keys());
    most.queries = std::max(most.queries, segments[i].count);
  }
  return most;
}

/// Runs task(piece, group, workspace) for all pieces and groups in parallel, with a workspace for
/// each thread.
template <class Workspace, class Task>
void for_each_attention_task(const std::vector<AttentionPiece>& pieces, std::int64_t groups,
                             const Task& task) {
  const auto tasks = static_cast<std::int64_t>(pieces.size()) * groups;
  at::parallel_for(0, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    Workspace workspace;
    for (std::int64_t i = begin; i < end; ++i) task(pieces[i / groups], i % groups, workspace);
  });
}

}  // namespace graphlora
