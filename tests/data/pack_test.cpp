#include "data/pack.hpp"

#include <gtest/gtest.h>

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
  EXPECT_EQ(pack.row_S, (Values{70, 40}));
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

TEST(Pack, BudgetCutsConsecutiveRuns) {
  using Bounds = std::vector<std::size_t>;
  EXPECT_EQ(split_by_budget(Values{}, 10), Bounds{0});
  EXPECT_EQ(split_by_budget(Values{4}, 10), (Bounds{0, 1}));
  EXPECT_EQ(split_by_budget(Values{4, 6, 1, 20, 3, 7, 1}, 10), (Bounds{0, 2, 3, 4, 6, 7}));
  EXPECT_EQ(split_by_budget(Values{5, 5}, 0), (Bounds{0, 1, 2}));
}

}  // namespace
}  // namespace graphlora
