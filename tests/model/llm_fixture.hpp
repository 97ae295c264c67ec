// Models and packs for the tests of the LLM side.
#pragma once
#include <torch/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/pack.hpp"
#include "model/graphlora.hpp"

namespace graphlora::testing {

inline std::filesystem::path golden_directory() { return "tests/golden"; }

/// One prompt of a test.
struct Example {
  std::vector<std::int64_t> tokens, anchors;
  std::int64_t stream = 0;
};

/// Packs examples; anchors get the rows first_anchor, first_anchor + 1, … in order.
inline Pack pack_of(const std::vector<Example>& examples, std::int64_t first_anchor = 0) {
  Pack pack;
  std::vector<std::int64_t> tokens, positions, streams, anchor_token, anchor_row, last;
  for (const Example& e : examples) {
    const auto begin = static_cast<std::int64_t>(tokens.size()),
               length = static_cast<std::int64_t>(e.tokens.size());
    pack.segments.push_back({.begin = begin, .length = length});
    for (std::int64_t i = 0; i < length; ++i) {
      tokens.push_back(e.tokens[i]);
      positions.push_back(i);
      streams.push_back(e.stream);
    }
    for (const std::int64_t a : e.anchors) {
      anchor_row.push_back(first_anchor + static_cast<std::int64_t>(anchor_token.size()));
      anchor_token.push_back(begin + a);
    }
    last.push_back(begin + length - 1);
    pack.row_S.push_back(e.stream);
  }
  pack.tokens_T = at::tensor(tokens, at::kLong);
  pack.positions_T = at::tensor(positions, at::kLong);
  pack.streams_T = at::tensor(streams, at::kLong);
  pack.anchor_token_A = at::tensor(anchor_token, at::kLong);
  pack.anchor_row_A = at::tensor(anchor_row, at::kLong);
  pack.last_token_S = at::tensor(last, at::kLong);
  pack.label_S = at::zeros({static_cast<std::int64_t>(examples.size())});
  return pack;
}

/// ‖a − b‖ / ‖b‖ over all elements, in fp64.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor wide = b.to(at::kDouble);
  return ((a.to(at::kDouble) - wide).norm() / wide.norm().clamp_min(1e-300)).item<double>();
}

}  // namespace graphlora::testing
