// Rows in node order: every range to its rank, and what a wrong distribution gives.
#include "train/node_rows.hpp"

#include <gtest/gtest.h>

#include "core/rng.hpp"
#include "support/rank_main.hpp"

namespace graphlora::test {
namespace {

constexpr std::int64_t kNodes = 53;

at::Tensor owned_here() {
  std::vector<std::int64_t> nodes;
  const KeyedPermutation order(kNodes, 9);
  for (std::int64_t i = 0; i < kNodes; ++i)
    if (static_cast<int>(splitmix64(order(i)) % world().size()) == world().rank())
      nodes.push_back(static_cast<std::int64_t>(order(i)));
  return at::tensor(nodes, at::kLong);
}

at::Tensor rows_of(const at::Tensor& nodes) {
  return nodes.to(at::kDouble).unsqueeze(1) * 10 + at::arange(3, at::kDouble);
}

TEST(NodeRows, EveryRankGetsItsRange) {
  const at::Tensor owned = owned_here();
  const NodeRows rows(world(), owned);
  const at::Tensor held = rows_of(owned);
  // Uneven ranges, in no order, one of them empty; all of it on one rank; the same on all.
  std::vector<std::vector<NodeRange>> cases(3, std::vector<NodeRange>(world().size()));
  for (int rank = 0; rank < world().size(); ++rank) {
    if (rank != 1) cases[0][rank] = {40 - 11 * rank, 50 - 11 * rank};
    cases[2][rank] = {5, 25};
  }
  cases[1].back() = {0, kNodes};
  for (const auto& ranges : cases) {
    const NodeRange mine = ranges[world().rank()];
    const at::Tensor got = rows.fetch(held, ranges);
    EXPECT_TRUE(got.defined());
    if (!got.defined()) continue;
    EXPECT_TRUE(at::equal(got, rows_of(at::arange(mine.begin, mine.end, at::kLong))));
  }
}

TEST(NodeRows, ANodeOwnedTwiceOrNeverIsNoticedByTheRankThatAsks) {
  at::Tensor owned = owned_here();
  if (world().rank() == 0) owned[0] = owned[1].clone();
  const NodeRows rows(world(), owned);
  std::vector<NodeRange> ranges(world().size());
  ranges.back() = {0, kNodes};
  const bool defined = rows.fetch(rows_of(owned), ranges).defined();
  EXPECT_EQ(defined, world().rank() != world().size() - 1);
}

}  // namespace
}  // namespace graphlora::test
