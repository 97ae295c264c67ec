#include "train/metrics.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"

namespace graphlora {
namespace {

struct Rows {
  std::vector<float> score;
  std::vector<std::uint8_t> label;
  std::vector<std::int64_t> user;
};

Rows random_rows(std::size_t n, int levels, int users, double signal, std::uint64_t seed) {
  SplitMix64 random(seed);
  Rows rows;
  for (std::size_t i = 0; i < n; ++i) {
    rows.label.push_back(random.uniform() < 0.4);
    const double score = random.normal() + signal * rows.label.back();
    rows.score.push_back(static_cast<float>(std::round(score * levels) / levels));
    rows.user.push_back(static_cast<std::int64_t>(random.below(users)));
  }
  return rows;
}

/// Every pair of a positive and a negative counted.
std::optional<double> brute_force_auc(const std::vector<float>& score,
                                      const std::vector<std::uint8_t>& label) {
  double wins = 0, pairs = 0;
  for (std::size_t i = 0; i < score.size(); ++i) {
    for (std::size_t j = 0; j < score.size(); ++j) {
      if (!label[i] || label[j]) continue;
      pairs += 1;
      wins += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
    }
  }
  if (pairs == 0) return std::nullopt;
  return wins / pairs;
}

void expect_near(const std::optional<double>& value, const nlohmann::json& golden,
                 const std::string& what) {
  ASSERT_EQ(value.has_value(), !golden.is_null()) << what;
  EXPECT_NEAR(value.value_or(-1), golden.is_null() ? -1 : golden.get<double>(), 1e-12) << what;
}

TEST(Metrics, EqualScikitLearn) {
  for (const auto& golden : read_json("tests/golden/metrics.json")) {
    const auto name = golden.at("name").get<std::string>();
    const auto score = golden.at("score").get<std::vector<float>>();
    const auto label = golden.at("label").get<std::vector<std::uint8_t>>();
    const auto user = golden.at("user").get<std::vector<std::int64_t>>();
    const RankingQuality quality = ranking_quality(score, label, user, 10);
    expect_near(auc(score, label), golden.at("auc"), name);
    expect_near(quality.auc, golden.at("auc"), name);
    expect_near(quality.uauc, golden.at("uauc"), name);
    expect_near(quality.uauc_weighted, golden.at("uauc_weighted"), name);
    EXPECT_EQ(quality.uauc_users, golden.at("uauc_users").get<std::int64_t>()) << name;
    EXPECT_EQ(quality.rows, std::ssize(score));
    EXPECT_EQ(quality.auc_stderr.has_value(), quality.auc.has_value()) << name;
  }
}

TEST(Metrics, EqualBruteForce) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Rows rows = random_rows(1 + seed % 40, 1 + static_cast<int>(seed % 3), 3, 0.5, seed);
    const auto expected = brute_force_auc(rows.score, rows.label);
    const auto value = auc(rows.score, rows.label);
    ASSERT_EQ(value.has_value(), expected.has_value());
    EXPECT_NEAR(value.value_or(-1), expected.value_or(-1), 1e-14);
  }
}

TEST(Metrics, DoNotDependOnTheOrderOfRows) {
  const Rows rows = random_rows(500, 2, 30, 0.5, 1);
  const KeyedPermutation permutation(500, 9);
  Rows shuffled;
  for (std::size_t i = 0; i < 500; ++i) {
    shuffled.score.push_back(rows.score[permutation(i)]);
    shuffled.label.push_back(rows.label[permutation(i)]);
    shuffled.user.push_back(rows.user[permutation(i)]);
  }
  const auto a = ranking_quality(rows.score, rows.label, rows.user, 0);
  const auto b = ranking_quality(shuffled.score, shuffled.label, shuffled.user, 0);
  EXPECT_EQ(a.to_json(), b.to_json());
}

TEST(Metrics, UndefinedAndEmpty) {
  const RankingQuality empty = ranking_quality({}, {}, {});
  EXPECT_EQ(empty.to_json(),
            nlohmann::ordered_json::parse(R"({"rows":0,"auc":null,"auc_stderr":null,"uauc":null,
                                      "uauc_weighted":null,"uauc_users":0})"));
}

TEST(Metrics, NanScoresAreRefused) {
  const std::vector<float> score{0.1f, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<std::uint8_t> label{0, 1};
  EXPECT_THROW(auc(score, label), DataError);
  EXPECT_THROW(auc(score, std::vector<std::uint8_t>{0}), Error);
}

TEST(Metrics, BootstrapErrorAgreesWithTheory) {
  const Rows rows = random_rows(4000, 1000, 50, 0.8, 3);
  const auto quality = ranking_quality(rows.score, rows.label, rows.user, 400, 5);
  // Hanley and McNeil's formula, good for normal scores.
  const double a = *quality.auc;
  double positives = 0;
  for (const auto label : rows.label) positives += label;
  const double negatives = 4000 - positives;
  const double q1 = a / (2 - a), q2 = 2 * a * a / (1 + a);
  const double theory =
      std::sqrt((a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)) /
                (positives * negatives));
  EXPECT_NEAR(*quality.auc_stderr / theory, 1, 0.15);
}

TEST(Metrics, BootstrapIsSeeded) {
  const Rows rows = random_rows(300, 10, 5, 0.5, 4);
  const auto error = [&](std::uint64_t seed) {
    return *ranking_quality(rows.score, rows.label, rows.user, 50, seed).auc_stderr;
  };
  EXPECT_EQ(error(1), error(1));
  EXPECT_NE(error(1), error(2));
  EXPECT_FALSE(ranking_quality(rows.score, rows.label, rows.user, 0).auc_stderr.has_value());
}

}  // namespace
}  // namespace graphlora
