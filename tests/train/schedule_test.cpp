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

TEST(Stages, JointTrainsAllAtEveryStep) {
  const Stages stages{.names = {"joint"}, .steps = 5};
  for (std::int64_t step = 1; step <= 7; ++step) {
    EXPECT_EQ(stages.updates(Placement::gnn, step), step);
    EXPECT_EQ(stages.updates(Placement::lora_a_column, step), step);
    EXPECT_EQ(stages.embedding_updates(step), step);
    EXPECT_TRUE(stages.trains_embedding(step));
  }
}

TEST(Stages, EachSideCountsItsOwnUpdates) {
  // 7 steps in 3 stages: steps 1-3, 4-5, 6-7.
  const Stages stages{.names = {"adapter", "projector", "joint"}, .steps = 7};
  const std::vector<std::int64_t> lora{1, 2, 3, 3, 3, 4, 5}, graph{0, 0, 0, 1, 2, 3, 4};
  for (std::int64_t step = 1; step <= 7; ++step) {
    EXPECT_EQ(stages.updates(Placement::lora_b_row, step), lora[step - 1]) << step;
    EXPECT_EQ(stages.updates(Placement::lambda, step), lora[step - 1]) << step;
    EXPECT_EQ(stages.updates(Placement::projector, step), graph[step - 1]) << step;
    EXPECT_EQ(stages.updates(Placement::gnn, step), graph[step - 1]) << step;
    EXPECT_EQ(stages.embedding_updates(step), graph[step - 1]) << step;
    EXPECT_EQ(stages.trains(Placement::gnn, step), step > 3) << step;
    EXPECT_EQ(stages.trains(Placement::lambda, step), step < 4 || step > 5) << step;
  }
}

TEST(Stages, MoreStagesThanSteps) {
  const Stages stages{.names = {"adapter", "projector", "joint"}, .steps = 1};
  EXPECT_EQ(stages.updates(Placement::lambda, 1), 1);
  EXPECT_EQ(stages.updates(Placement::gnn, 1), 0);
}

}  // namespace
}  // namespace graphlora
