// Shapes: T tokens of the pack, S segments, A anchor positions.
#include "data/pack.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace graphlora {

Pack make_pack(std::span<const Prompt> prompts, std::span<const std::int64_t> prefix_stream,
               std::int64_t first_anchor) {
  if (prompts.size() != prefix_stream.size()) {
    throw ShapeError("make_pack: {} prompts, but {} prefix streams", prompts.size(),
                     prefix_stream.size());
  }
  std::int64_t tokens = 0;
  std::int64_t anchors = 0;
  for (const Prompt& prompt : prompts) {
    if (prompt.tokens.empty())
      throw ShapeError("make_pack: the prompt of row {} is empty", prompt.row);
    tokens += static_cast<std::int64_t>(prompt.tokens.size());
    anchors += static_cast<std::int64_t>(prompt.anchors.size());
  }
  const auto examples = static_cast<std::int64_t>(prompts.size());
  Pack pack;
  pack.tokens_T = at::empty({tokens}, at::kLong);
  pack.positions_T = at::empty({tokens}, at::kLong);
  pack.streams_T = at::empty({tokens}, at::kLong);
  pack.anchor_token_A = at::empty({anchors}, at::kLong);
  pack.anchor_row_A = at::arange(first_anchor, first_anchor + anchors, at::kLong);
  pack.last_token_S = at::empty({examples}, at::kLong);
  pack.label_S = at::empty({examples}, at::kFloat);
  auto* token = pack.tokens_T.data_ptr<std::int64_t>();
  auto* position = pack.positions_T.data_ptr<std::int64_t>();
  auto* stream = pack.streams_T.data_ptr<std::int64_t>();
  auto* anchor = pack.anchor_token_A.data_ptr<std::int64_t>();
  std::int64_t begin = 0;
  for (std::int64_t s = 0; s < examples; ++s) {
    const Prompt& prompt = prompts[s];
    const auto length = static_cast<std::int64_t>(prompt.tokens.size());
    for (std::int64_t i = 0; i < length; ++i) {
      *token++ = std::max(prompt.tokens[i], 0);
      *position++ = i;
      *stream++ = i < prompt.private_from ? prefix_stream[s] : prompt.row;
    }
    for (const Prompt::Anchor& a : prompt.anchors) *anchor++ = begin + a.position;
    pack.segments.push_back({begin, length, 0, -1});
    pack.row_S.push_back(prompt.row);
    pack.last_token_S.data_ptr<std::int64_t>()[s] = begin + length - 1;
    pack.label_S.data_ptr<float>()[s] = prompt.label;
    begin += length;
  }
  return pack;
}

std::vector<std::size_t> split_by_budget(std::span<const std::int64_t> lengths,
                                         std::int64_t budget) {
  std::vector<std::size_t> bounds = {0};
  std::int64_t used = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (i > bounds.back() && used + lengths[i] > budget) {
      bounds.push_back(i);
      used = 0;
    }
    used += lengths[i];
  }
  if (!lengths.empty()) bounds.push_back(lengths.size());
  return bounds;
}

}  // namespace graphlora
