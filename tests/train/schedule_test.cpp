#include "train/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.hpp"

namespace graphlora {
namespace {

TEST(Schedule, WarmsUpLinearlyThenFollowsACosineToTheFloor) {
  const Schedule schedule{.kind = "cosine", .warmup = 4, .steps = 12, .floor = 0.1};
  EXPECT_DOUBLE_EQ(schedule.factor(1), 0.25);
  EXPECT_DOUBLE_EQ(schedule.factor(2), 0.5);
  EXPECT_DOUBLE_EQ(schedule.factor(4), 1);
  EXPECT_DOUBLE_EQ(schedule.factor(8), 0.55);
  EXPECT_NEAR(schedule.factor(6), 0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2, 1e-15);
  EXPECT_DOUBLE_EQ(schedule.factor(12), 0.1);
  EXPECT_DOUBLE_EQ(schedule.factor(100), 0.1);
  for (std::int64_t step = 4; step < 12; ++step) {
    EXPECT_LT(schedule.factor(step + 1), schedule.factor(step));
  }
}

TEST(Schedule, NoWarmUp) {
  const Schedule schedule{.kind = "cosine", .warmup = 0, .steps = 2, .floor = 0};
  EXPECT_DOUBLE_EQ(schedule.factor(1), 0.5);
  EXPECT_DOUBLE_EQ(schedule.factor(2), 0);
}

TEST(Schedule, WarmUpLongerThanTheRun) {
  const Schedule schedule{.kind = "cosine", .warmup = 10, .steps = 5, .floor = 0.1};
  EXPECT_DOUBLE_EQ(schedule.factor(5), 0.5);
}

TEST(Schedule, ConstantHasNoWarmUp) {
  const Schedule schedule{.kind = "constant", .warmup = 10, .steps = 20, .floor = 0.1};
  EXPECT_EQ(schedule.factor(1), 1);
  EXPECT_EQ(schedule.factor(20), 1);
}

TEST(Schedule, UnknownKind) { EXPECT_THROW((Schedule{.kind = "linear"}.factor(1)), ConfigError); }

}  // namespace
}  // namespace graphlora
