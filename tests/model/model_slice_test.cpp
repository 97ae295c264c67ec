#include "model/model_slice.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::tiny_config;

/// Hidden 576, 9 heads of 64 in 3 groups, MLP 1536.
LlamaConfig smollm2() {
  LlamaConfig c = tiny_config();
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.head_dim = 64;
  return c;
}

TEST(ModelSlice, CoversTheModelOnce) {
  for (const LlamaConfig& c : {tiny_config(), smollm2()}) {
    for (int size = 1; size <= 3; ++size) {
      std::int64_t group = 0, head = 0, column = 0;
      for (int rank = 0; rank < size; ++rank) {
        const ModelSlice s = ModelSlice::of(c, size, rank);
        EXPECT_EQ(s.first_group, group);
        EXPECT_EQ(s.first_head, head);
        EXPECT_EQ(s.first_column, column);
        EXPECT_GE(s.groups, 1);
        EXPECT_GE(s.columns, 1);
        EXPECT_EQ(s.heads, 3 * s.groups);
        group += s.groups;
        head += s.heads;
        column += s.columns;
      }
      EXPECT_EQ(group, c.kv_heads);
      EXPECT_EQ(head, c.heads);
      EXPECT_EQ(column, c.intermediate_size);
    }
  }
}

/// Two ranks of SmolLM2 hold 2 and 1 groups, and MLP columns that make up for it.
TEST(ModelSlice, SharesTheWorkEvenly) {
  const LlamaConfig c = smollm2();
  const auto weights = [&](const ModelSlice& s) {
    return c.hidden_size * (2 * s.heads * c.head_dim + 2 * s.groups * c.head_dim + 3 * s.columns);
  };
  const auto all = static_cast<double>(weights(ModelSlice::whole(c)));
  for (int size = 1; size <= 3; ++size) {
    for (int rank = 0; rank < size; ++rank) {
      const auto share = static_cast<double>(weights(ModelSlice::of(c, size, rank))) / all;
      EXPECT_NEAR(share * size, 1, 0.03) << rank << " of " << size;
    }
  }
  EXPECT_EQ(ModelSlice::of(c, 2, 0).groups, 2);
  EXPECT_LT(ModelSlice::of(c, 2, 0).columns, ModelSlice::of(c, 2, 1).columns);
}

/// Attention may be so large a part that the ranks with a group more would need less than no MLP.
TEST(ModelSlice, EveryRankHasColumns) {
  LlamaConfig c = tiny_config();
  c.head_dim = 64;
  c.intermediate_size = 5;
  for (int rank = 0; rank < 2; ++rank) EXPECT_GE(ModelSlice::of(c, 2, rank).columns, 1);
}

TEST(ModelSlice, NoMoreRanksThanGroupsOrColumns) {
  LlamaConfig c = tiny_config();
  EXPECT_THROW(ModelSlice::of(c, 4, 0), ConfigError);
  c.intermediate_size = 2;
  EXPECT_THROW(ModelSlice::of(c, 3, 0), ConfigError);
}

}  // namespace
}  // namespace graphlora
