#include "data/pack.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "core/error.hpp"

namespace graphlora {
namespace {

std::vector<std::int64_t> values(const at::Tensor& tensor) {
  EXPECT_EQ(tensor.scalar_type(), at::kLong);
  const auto* data = tensor.data_ptr<std::int64_t>();
  return {data, data + tensor.numel()};
}

using Values = std::vector<std::int64_t>;

TEST(Pack, LaysPromptsOneBehindTheOther) {
  Prompt first;
  first.row = 70;
  first.tokens = {1, -1, 5, -1};
  first.anchors = {{1, 3}, {3, 9}};
  first.private_from = 2;
  first.label = 1;
  Prompt second;
  second.row = 40;
  second.tokens = {-1, 8, -1};
  second.anchors = {{0, 4}, {2, 8}};
  second.private_from = 0;
  const Pack pack = make_pack(std::vector{first, second}, Values{60, 40}, 10);
  EXPECT_EQ(values(pack.tokens_T), (Values{1, 0, 5, 0, 0, 8, 0}));
  EXPECT_EQ(values(pack.positions_T), (Values{0, 1, 2, 3, 0, 1, 2}));
  EXPECT_EQ(values(pack.streams_T), (Values{60, 60, 70, 70, 40, 40, 40}));
  EXPECT_EQ(values(pack.anchor_token_A), (Values{1, 3, 4, 6}));
  EXPECT_EQ(values(pack.anchor_row_A), (Values{10, 11, 12, 13}));
  EXPECT_EQ(values(pack.last_token_S), (Values{3, 6}));
  EXPECT_EQ(pack.example_S, (std::vector<std::size_t>{0, 1}));
  ASSERT_EQ(pack.anchors.size(), 4U);
  EXPECT_EQ(pack.anchors[2].node, 4);
  EXPECT_EQ(pack.anchors[2].row, 40);
  EXPECT_EQ(pack.label_S.scalar_type(), at::kFloat);
  EXPECT_EQ(pack.label_S[0].item<float>(), 1);
  EXPECT_EQ(pack.label_S[1].item<float>(), 0);
  ASSERT_EQ(pack.segments.size(), 2U);
  EXPECT_EQ(pack.segments[1].begin, 4);
  EXPECT_EQ(pack.segments[1].length, 3);
  EXPECT_EQ(pack.segments[1].first_position, 0);
  EXPECT_EQ(pack.segments[1].parent, -1);
  EXPECT_EQ(pack.tokens(), 7);
  EXPECT_EQ(pack.examples(), 2);
}

TEST(Pack, MayBeEmpty) {
  const Pack pack = make_pack({}, {}, 5);
  EXPECT_EQ(pack.tokens(), 0);
  EXPECT_EQ(pack.examples(), 0);
  EXPECT_TRUE(pack.segments.empty());
  EXPECT_EQ(pack.anchor_row_A.numel(), 0);
}

TEST(Pack, RefusesMismatchedStreamsAndEmptyPrompts) {
  EXPECT_THROW(make_pack(std::vector<Prompt>(2), Values{1}, 0), ShapeError);
  EXPECT_THROW(make_pack(std::vector<Prompt>(1), Values{1}, 0), ShapeError);
}

/// A prompt of `tokens`, in which −1 stands at anchors of `nodes`.
Prompt prompt_of(std::int64_t row, std::vector<std::int32_t> tokens, const Values& nodes,
                 std::int32_t private_from) {
  Prompt prompt;
  prompt.row = row;
  prompt.tokens = std::move(tokens);
  prompt.private_from = private_from;
  prompt.label = static_cast<float>(row);
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(prompt.tokens.size()); ++i) {
    if (prompt.tokens[i] < 0) prompt.anchors.push_back({i, nodes[prompt.anchors.size()]});
  }
  return prompt;
}

/// Of each segment: begin, length, first position, parent.
using Places = std::vector<std::array<std::int64_t, 4>>;
Places places(const Pack& pack) {
  Places all;
  for (const Segment& s : pack.segments)
    all.push_back({s.begin, s.length, s.first_position, s.parent});
  return all;
}

TEST(Pack, HoldsACommonBeginningOnce) {
  const std::vector prompts{prompt_of(9, {1, 2, 3, -1, 4, 20, -1, 5}, {7, 31}, 5),
                            prompt_of(3, {6, 2, 3, -1, 4, 20, -1, 5}, {7, 31}, 5),
                            prompt_of(4, {1, 2, 3, -1, 4, 21, 22, -1, 5}, {7, 32}, 5)};
  const Pack pack = make_pack(prompts, Values{4, 3, 4}, 10, Sharing::training);
  EXPECT_EQ(values(pack.tokens_T),
            (Values{6, 2, 3, 0, 4, 20, 0, 5, 1, 2, 3, 0, 4, 20, 0, 5, 21, 22, 0, 5}));
  EXPECT_EQ(places(pack), (Places{{0, 8, 0, -1}, {8, 5, 0, -1}, {13, 3, 5, 1}, {16, 4, 5, 1}}));
  EXPECT_EQ(values(pack.positions_T),
            (Values{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8}));
  EXPECT_EQ(values(pack.streams_T),
            (Values{3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 9, 9, 9, 4, 4, 4, 4}));
  EXPECT_EQ(values(pack.anchor_token_A), (Values{3, 6, 11, 14, 18}));
  EXPECT_EQ(values(pack.anchor_row_A), (Values{10, 11, 12, 13, 14}));
  EXPECT_TRUE(
      at::equal(pack.anchor_examples_A, at::tensor({1.0, 1.0, 2.0, 1.0, 1.0}, at::kDouble)));
  EXPECT_EQ(pack.anchors[2].node, 7);
  EXPECT_EQ(pack.anchors[4].row, 4);
  // The examples keep their order.
  EXPECT_EQ(values(pack.last_token_S), (Values{15, 7, 19}));
  EXPECT_EQ(pack.example_S, (std::vector<std::size_t>{0, 1, 2}));
  EXPECT_TRUE(at::equal(pack.label_S, at::tensor({9.0F, 3.0F, 4.0F})));

  EXPECT_EQ(make_pack(prompts, Values{4, 3, 4}, 10).tokens(), 25);
}

TEST(Pack, SharesNothingThatDiffers) {
  const Prompt one = prompt_of(1, {1, 2, 3, -1, 4, 5, 6}, {7}, 6);
  const auto tokens = [&](const Prompt& other, std::int64_t stream, Sharing sharing) {
    return make_pack(std::vector{one, other}, Values{1, stream}, 0, sharing).tokens();
  };
  // Alike up to the last token, or to the last that is not private.
  const Prompt same = prompt_of(2, one.tokens, {7}, 6);
  EXPECT_EQ(tokens(same, 1, Sharing::training), 8);
  EXPECT_EQ(tokens(prompt_of(2, one.tokens, {7}, 5), 1, Sharing::training), 9);
  EXPECT_EQ(tokens(prompt_of(2, one.tokens, {7}, 0), 1, Sharing::inference), 8);
  // Another dropout stream, another user behind the same token, another token.
  EXPECT_EQ(tokens(same, 2, Sharing::training), 14);
  EXPECT_EQ(tokens(same, 2, Sharing::inference), 8);
  EXPECT_EQ(tokens(prompt_of(2, one.tokens, {8}, 6), 1, Sharing::inference), 14);
  EXPECT_EQ(tokens(prompt_of(2, {1, 2, 3, -1, 9, 5, 6}, {7}, 6), 1, Sharing::inference), 10);
  // A user without a node is not token 0.
  const std::vector unknown{prompt_of(1, {1, 2, 3, 4, 0, 5}, {}, 6),
                            prompt_of(2, {1, 2, 3, 4, -1, 5}, {-1}, 6)};
  EXPECT_EQ(make_pack(unknown, Values{1, 1}, 0, Sharing::inference).tokens(), 8);
  // Too little for a segment of its own.
  EXPECT_EQ(tokens(prompt_of(2, {1, 2, 3, 9, 9, 5, 6}, {}, 6), 1, Sharing::inference), 14);
}

TEST(Pack, NestsBeginningsOfBeginnings) {
  const std::vector prompts{
      prompt_of(1, {1, 1, 1, 1, 2, 2, 2, 2, 3, 3}, {}, 0), prompt_of(2, {1, 1, 1, 1, 5, 5}, {}, 0),
      prompt_of(3, {1, 1, 1, 1, 2, 2, 2, 2, 4}, {}, 0), prompt_of(4, {1, 1, 1, 1, 2, 2, 9}, {}, 0)};
  const Pack pack = make_pack(prompts, Values{1, 2, 3, 4}, 0, Sharing::inference);
  EXPECT_EQ(
      places(pack),
      (Places{
          {0, 4, 0, -1}, {4, 4, 4, 0}, {8, 2, 8, 1}, {10, 1, 8, 1}, {11, 3, 4, 0}, {14, 2, 4, 0}}));
  EXPECT_EQ(values(pack.last_token_S), (Values{9, 15, 10, 13}));
}

TEST(Pack, PacksStayWithinTheBudgetAndTogether) {
  // Users of 3 and 4 examples: 20 tokens in common, 5 private ones.
  std::vector<Prompt> prompts;
  Values streams;
  for (int i = 0; i < 7; ++i) {
    const int user = i % 2;
    std::vector<std::int32_t> tokens(20, 10 + user);
    tokens.insert(tokens.end(), {i, 1, 2, 3, 4});
    prompts.push_back(prompt_of(i, tokens, {}, 20));
    streams.push_back(user);
  }
  const auto sizes = [&](std::int64_t budget, Sharing sharing) {
    std::vector<std::pair<std::int64_t, std::int64_t>> all;
    std::vector<std::size_t> seen;
    for (const Pack& pack : make_packs(prompts, streams, budget, sharing)) {
      all.emplace_back(pack.tokens(), pack.examples());
      seen.insert(seen.end(), pack.example_S.begin(), pack.example_S.end());
    }
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6}));
    return all;
  };
  using Sizes = std::vector<std::pair<std::int64_t, std::int64_t>>;
  EXPECT_EQ(sizes(200, Sharing::none), (Sizes{{175, 7}}));
  EXPECT_EQ(sizes(60, Sharing::none), (Sizes{{50, 2}, {50, 2}, {50, 2}, {25, 1}}));
  EXPECT_EQ(sizes(200, Sharing::training), (Sizes{{75, 7}}));
  // 70 would hold some of the second user's, but they would need their beginning twice.
  EXPECT_EQ(sizes(70, Sharing::training), (Sizes{{40, 4}, {35, 3}}));
  EXPECT_EQ(sizes(1, Sharing::training), (Sizes(7, {25, 1})));
}

TEST(Pack, BudgetCutsConsecutiveRuns) {
  using Bounds = std::vector<std::size_t>;
  EXPECT_EQ(split_by_budget(Values{}, 10), Bounds{0});
  EXPECT_EQ(split_by_budget(Values{4}, 10), (Bounds{0, 1}));
  EXPECT_EQ(split_by_budget(Values{4, 6, 1, 20, 3, 7, 1}, 10), (Bounds{0, 2, 3, 4, 6, 7}));
  EXPECT_EQ(split_by_budget(Values{5, 5}, 0), (Bounds{0, 1, 2}));
}

}  // namespace
}  // namespace graphlora
