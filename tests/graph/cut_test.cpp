#include "graph/cut.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "core/error.hpp"
#include "graph/planted.hpp"

namespace graphlora {
namespace {

using CutTest = test::LocalTest;

std::vector<std::int64_t> sorted_times(int rows, int distinct, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int64_t> times(rows);
  for (auto& time : times) time = 1000 + 7 * static_cast<std::int64_t>(random() % distinct);
  std::sort(times.begin(), times.end());
  return times;
}

TEST_F(CutTest, NamesAreReadAndUnknownOnesRefused) {
  for (const auto kind : {CutKind::none, CutKind::window, CutKind::fold}) {
    EXPECT_EQ(parse_cut(to_string(kind)), kind);
  }
  EXPECT_THROW(parse_cut("windows"), ConfigError);
  EXPECT_THROW(parse_cut(""), ConfigError);
}

TEST_F(CutTest, WindowsNeverDivideEqualTimesAndAscend) {
  for (const int distinct : {1, 2, 7, 50, 100000}) {
    for (const int groups : {1, 2, 8, 100}) {
      const auto times = sorted_times(1000, distinct, 3);
      const CutRule rule(times, CutKind::window, groups);
      EXPECT_LE(rule.groups(), groups);
      std::map<std::int64_t, int> group_of_time;
      std::set<int> used;
      int last = 0;
      for (const auto time : times) {
        const int group = rule.group(1, 1, time);
        EXPECT_GE(group, last);
        last = group;
        used.insert(group);
        EXPECT_EQ(group_of_time.emplace(time, group).first->second, group);
      }
      EXPECT_EQ(static_cast<int>(used.size()), rule.groups());
      EXPECT_EQ(*used.rbegin(), rule.groups() - 1);
    }
  }
}

TEST_F(CutTest, WindowsOfDistinctTimesHaveEqualNumbersOfRows) {
  std::vector<std::int64_t> times(1003);
  for (std::size_t i = 0; i < times.size(); ++i) times[i] = static_cast<std::int64_t>(i * i);
  const CutRule rule(times, CutKind::window, 8);
  EXPECT_EQ(rule.groups(), 8);
  std::map<int, int> count;
  for (const auto time : times) ++count[rule.group(0, 0, time)];
  for (const auto& [group, rows] : count) EXPECT_NEAR(rows, 1003 / 8.0, 1.0) << group;
}

TEST_F(CutTest, WindowsWithoutRowsAreOne) {
  const CutRule rule(std::vector<std::int64_t>{}, CutKind::window, 8);
  EXPECT_EQ(rule.groups(), 1);
  EXPECT_EQ(rule.group(0, 0, 12345), 0);
}

// SplitMix64 by its published definition, apart from the project's.
std::uint64_t reference_hash(std::uint64_t user, std::uint64_t item) {
  std::uint64_t z = user * 4294967296ULL + item + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

TEST_F(CutTest, FoldIsTheHashOfUserAndItem) {
  const CutRule rule(std::vector<std::int64_t>{}, CutKind::fold, 8);
  std::map<int, int> count;
  for (std::int64_t user = 0; user < 100; ++user) {
    for (std::int64_t item = 0; item < 100; ++item) {
      const int group = rule.group(user, item, user + item);
      EXPECT_EQ(group, static_cast<int>(reference_hash(user, item) % 8));
      EXPECT_EQ(group, rule.group(user, item, 0));  // whatever the time
      ++count[group];
    }
  }
  for (const auto& [group, rows] : count) EXPECT_NEAR(rows, 1250, 150) << group;
}

TEST_F(CutTest, ViewsDropTheGroupsThatCouldTellLabels) {
  const auto times = sorted_times(500, 400, 5);
  const CutRule window(times, CutKind::window, 8), fold(times, CutKind::fold, 8),
      none(times, CutKind::none, 8);
  EXPECT_EQ(window.training_view(3), (CutView{3, window.groups()}));
  EXPECT_EQ(window.training_view(0), (CutView{0, window.groups()}));
  EXPECT_EQ(fold.training_view(3), (CutView{3, 4}));
  EXPECT_EQ(none.groups(), 1);
  for (const auto* rule : {&window, &fold, &none}) {
    const CutView full = rule->full_view();
    EXPECT_EQ(full.drop_begin, full.drop_end);
  }
  EXPECT_EQ(none.training_view(0), none.full_view());
}

TEST_F(CutTest, NumberOfGroupsIsChecked) {
  const std::vector<std::int64_t> times{1, 2, 3};
  for (const std::int64_t groups : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{65536}}) {
    EXPECT_THROW(CutRule(times, CutKind::fold, groups), ConfigError);
  }
  EXPECT_NO_THROW(CutRule(times, CutKind::fold, 65535));
}

TEST_F(CutTest, SurvivesJson) {
  const auto times = sorted_times(500, 90, 5);
  for (const auto kind : {CutKind::none, CutKind::window, CutKind::fold}) {
    const CutRule rule(times, kind, 8);
    EXPECT_EQ(CutRule::from_json(nlohmann::json::parse(rule.to_json().dump())), rule);
  }
}

TEST_F(CutTest, HostileJsonIsADataError) {
  for (const char* text : {
           R"({})",
           R"([])",
           R"("window")",
           R"({"kind":"fold"})",
           R"({"kind":"folds","groups":8})",
           R"({"kind":7,"groups":8})",
           R"({"kind":"fold","groups":0})",
           R"({"kind":"fold","groups":-3})",
           R"({"kind":"fold","groups":100000})",
           R"({"kind":"fold","groups":"8"})",
           R"({"kind":"window","groups":2})",
           R"({"kind":"window","groups":2,"window_starts":[1]})",
           R"({"kind":"window","groups":2,"window_starts":[2,1]})",
           R"({"kind":"window","groups":2,"window_starts":[1,1]})",
           R"({"kind":"window","groups":2,"window_starts":["a","b"]})",
       }) {
    EXPECT_THROW(CutRule::from_json(nlohmann::json::parse(text)), DataError) << text;
  }
}

}  // namespace
}  // namespace graphlora
