#include "data/split.hpp"

#include <gtest/gtest.h>

#include <random>

#include "core/error.hpp"

namespace graphlora {
namespace {

constexpr Split T = Split::train, V = Split::valid, E = Split::test;

TEST(SplitSorted, FollowsTheFormulaForEveryLength) {
  for (std::int64_t n = 0; n <= 200; ++n) {
    std::vector<std::int64_t> time(n);
    for (std::int64_t i = 0; i < n; ++i) time[i] = i;
    const auto split = split_sorted(time, 0.1, 0.1);
    // ⌊n/10 + 1/2⌋ and ⌊2n/10 + 1/2⌋ in whole numbers.
    const std::int64_t test = (n + 5) / 10, late = (2 * n + 5) / 10;
    EXPECT_EQ(std::count(split.begin(), split.end(), E), test) << n;
    EXPECT_EQ(std::count(split.begin(), split.end(), V), late - test) << n;
    EXPECT_TRUE(std::is_sorted(split.begin(), split.end()));
  }
}

TEST(SplitSorted, NeverDividesEqualTimes) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const int n = 1 + static_cast<int>(random() % 60);
    std::vector<std::int64_t> time(n);
    for (auto& t : time) t = static_cast<std::int64_t>(random() % 12);
    std::sort(time.begin(), time.end());
    const auto split = split_sorted(time, 0.15, 0.25);
    for (int i = 1; i < n; ++i) EXPECT_TRUE(time[i] != time[i - 1] || split[i] == split[i - 1]);
    // At least the share asked for is test, and dropping the first time of test would be less.
    const auto test = std::count(split.begin(), split.end(), E);
    const auto asked = static_cast<std::int64_t>(std::floor(0.25 * n + 0.5));
    EXPECT_GE(test, asked);
    if (test > 0) {
      const auto first = time[n - test];
      EXPECT_LT(test - std::count(time.begin(), time.end(), first), asked);
    } else {
      EXPECT_EQ(asked, 0);
    }
  }
}

TEST(SplitSorted, AllEqualTimesAreTest) {
  const std::vector<std::int64_t> time(10, 5);
  EXPECT_EQ(split_sorted(time, 0.1, 0.1), std::vector<Split>(10, E));
}

TEST(SplitAt, PutsBoundaryTimesIntoTheLaterSplit) {
  const std::vector<std::int64_t> time{1, 2, 2, 3, 3, 9};
  EXPECT_EQ(split_at(time, 2, 3), (std::vector<Split>{T, V, V, E, E, E}));
  EXPECT_EQ(split_at(time, 2, 2), (std::vector<Split>{T, E, E, E, E, E}));
}

TEST(SplitRows, UserTimeCutsEachUserAlone) {
  // User 0: 10 rows at even times; user 1: 3 rows at odd ones; user 2: one row.
  std::vector<std::int32_t> user;
  std::vector<std::int64_t> time;
  for (int i = 0; i < 10; ++i) {
    user.push_back(0), time.push_back(2 * i);
    if (i < 3) user.push_back(1), time.push_back(2 * i + 1);
  }
  user.push_back(2), time.push_back(100);
  const auto split = split_rows(user, time, 3, {.rule = "user-time"});
  std::vector<Split> of_user[3];
  for (std::size_t i = 0; i < user.size(); ++i) of_user[user[i]].push_back(split[i]);
  EXPECT_EQ(of_user[0], (std::vector<Split>{T, T, T, T, T, T, T, T, V, E}));
  EXPECT_EQ(of_user[1], (std::vector<Split>{T, T, V}));  // ⌊.3+.5⌋ = 0 test, ⌊.6+.5⌋ = 1 valid
  EXPECT_EQ(of_user[2], (std::vector<Split>{T}));
}

TEST(SplitRows, TimeIsGlobal) {
  const std::vector<std::int32_t> user{0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
  const std::vector<std::int64_t> time{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_EQ(split_rows(user, time, 2, {.rule = "time"}),
            (std::vector<Split>{T, T, T, T, T, T, T, T, V, E}));
  EXPECT_EQ(split_rows(user, time, 2, {.rule = "time", .valid_from = 1, .test_from = 8}),
            (std::vector<Split>{T, V, V, V, V, V, V, V, E, E}));
}

TEST(SplitRows, RefusesWhatMakesNoSense) {
  const auto bad = [](const SplitConfig& config) { split_rows({}, {}, 0, config); };
  EXPECT_THROW(bad({.rule = "random"}), ConfigError);
  EXPECT_THROW(bad({.valid = -0.1}), ConfigError);
  EXPECT_THROW(bad({.valid = 0.5, .test = 0.5}), ConfigError);
  EXPECT_THROW(bad({.test = std::nan("")}), ConfigError);
  EXPECT_THROW(bad({.rule = "user-time", .valid_from = 1, .test_from = 2}), ConfigError);
  EXPECT_THROW(bad({.valid_from = 1}), ConfigError);
  EXPECT_THROW(bad({.valid_from = 3, .test_from = 2}), ConfigError);
}

}  // namespace
}  // namespace graphlora
