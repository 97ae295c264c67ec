// Planted data against its own description: counts, distributions within five standard errors, the
// best AUC by brute force, the same bytes at any number of threads.
#include "graph/generate.hpp"

#include <ATen/Parallel.h>

#include <cmath>
#include <ctime>
#include <map>
#include <set>

#include "core/error.hpp"
#include "data/dataset.hpp"
#include "graph/planted.hpp"
#include "graph/title_words.hpp"
#include "support/slowdown.hpp"

namespace graphlora {
namespace {

using test::LocalTest;

struct Generate : LocalTest {};

std::vector<std::int64_t> counts(const std::vector<std::int32_t>& values, std::int64_t size) {
  std::vector<std::int64_t> out(size, 0);
  for (const std::int32_t value : values) ++out[value];
  return out;
}

/// A share seen in n draws is near p.
void expect_share(double seen, double n, double p, const std::string& what) {
  EXPECT_NEAR(seen / n, p, 5 * std::sqrt(p * (1 - p) / n)) << what;
}

TEST_F(Generate, HasExactlyTheRowsAskedForAndNoPairTwice) {
  for (const GenerateConfig& config :
       {GenerateConfig{300, 200, 6000, 4}, GenerateConfig{50, 20, 900, 3},
        GenerateConfig{1, 1, 1, 1}, GenerateConfig{7, 5, 35, 5}, GenerateConfig{40, 30, 40, 30},
        GenerateConfig{1, 1000, 700, 2}}) {
    const RawRatings raw = PlantedData(config).ratings(false);
    ASSERT_EQ(raw.rows(), config.interactions);
    EXPECT_EQ(raw.users.size(), config.users);
    EXPECT_EQ(raw.items.size(), config.items);
    std::set<std::pair<std::int32_t, std::int32_t>> pairs;
    for (std::int64_t row = 0; row < raw.rows(); ++row) {
      ASSERT_TRUE(raw.user[row] >= 0 && raw.user[row] < config.users);
      ASSERT_TRUE(raw.item[row] >= 0 && raw.item[row] < config.items);
      EXPECT_TRUE(pairs.emplace(raw.user[row], raw.item[row]).second);
      EXPECT_TRUE(raw.rating[row] >= 1 && raw.rating[row] <= 5);
      EXPECT_GE(raw.time[row], 1'577'836'800);
      EXPECT_LT(raw.time[row], 1'577'836'800 + 158'000'000);
    }
    for (const std::int64_t n : counts(raw.user, config.users)) EXPECT_GE(n, 1);
  }
}

TEST_F(Generate, AFullCommunityCostsNothing) {
  // Some 45,000 draws from a community that has no item left.
  const std::clock_t start = std::clock();
  const RawRatings raw = PlantedData({1, 300000, 240000, 2}).ratings(false);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 6 * test::kSlowdown);
  EXPECT_EQ(std::set<std::int32_t>(raw.item.begin(), raw.item.end()).size(), 240000u);
}

TEST_F(Generate, ActivityIsLogNormal) {
  const GenerateConfig config{20000, 3000, 400000, 10};
  const RawRatings raw = PlantedData(config).ratings(false);
  std::vector<std::int64_t> activity = counts(raw.user, config.users);
  std::sort(activity.begin(), activity.end());
  // Quantiles of median·exp(σ·z), z = -1, 0, 1, with σ = 1; the scale follows from the mean 20.
  const double median = 20 / std::exp(0.5);
  EXPECT_NEAR(static_cast<double>(activity[10000]), median, 1);
  EXPECT_NEAR(static_cast<double>(activity[3173]), median / std::exp(1), 1);
  EXPECT_NEAR(static_cast<double>(activity[16827]), median * std::exp(1), 2);
}

TEST_F(Generate, ItemsFollowZipfAndCommunities) {
  // One row a user: no draw is thrown away, so shares are those of the model.
  const GenerateConfig config{200000, 400, 200000, 8};
  const PlantedData data(config);
  const RawRatings raw = data.ratings(false);
  std::vector<double> community_weight(config.communities, 0);
  double all = 0;
  std::map<std::int32_t, std::int64_t> members;
  for (std::int32_t i = 0; i < config.items; ++i) {
    community_weight[data.item_community(i)] += 1.0 / (i + 1);
    all += 1.0 / (i + 1);
    ++members[data.item_community(i)];
  }
  ASSERT_EQ(members.size(), 8u);
  for (const auto& [community, size] : members) EXPECT_EQ(size, 50) << community;

  std::vector<double> users(config.communities, 0), expected(config.items, 0);
  double inside = 0, expected_inside = 0;
  for (std::int32_t u = 0; u < config.users; ++u) ++users[data.user_community(u)];
  for (const double n : users) EXPECT_EQ(n, 25000);
  for (std::int32_t i = 0; i < config.items; ++i) {
    const std::int32_t c = data.item_community(i);
    expected[i] = 0.3 / (i + 1) / all + 0.7 / 8 / (i + 1) / community_weight[c];
  }
  for (std::int32_t c = 0; c < config.communities; ++c)
    expected_inside += (0.7 + 0.3 * community_weight[c] / all) / 8;
  for (std::int64_t row = 0; row < raw.rows(); ++row)
    inside += data.user_community(raw.user[row]) == data.item_community(raw.item[row]);
  expect_share(inside, 200000, expected_inside, "inside");
  const auto seen = counts(raw.item, config.items);
  for (std::int32_t i = 0; i < config.items; ++i)
    expect_share(static_cast<double>(seen[i]), 200000, expected[i], fmt::format("item {}", i));
}

TEST_F(Generate, LikedRowsFollowTheLogit) {
  const GenerateConfig config{5000, 800, 100000, 5};
  const PlantedData data(config);
  const RawRatings raw = data.ratings(false);
  std::map<int, std::array<double, 4>> bins;  // rows, expected, variance, liked
  double liked = 0;
  for (std::int64_t row = 0; row < raw.rows(); ++row) {
    const double z = data.logit(raw.user[row], raw.item[row]), p = 1 / (1 + std::exp(-z));
    auto& bin = bins[static_cast<int>(std::floor(z))];
    bin[0] += 1, bin[1] += p, bin[2] += p * (1 - p), bin[3] += raw.rating[row] > 3;
    liked += raw.rating[row] > 3;
  }
  EXPECT_GE(bins.size(), 6u);
  for (const auto& [z, bin] : bins)
    EXPECT_NEAR(bin[3], bin[1], 5 * std::sqrt(bin[2]) + 1) << "logit " << z;
  EXPECT_NEAR(liked / 100000, 0.5, 0.06);
}

TEST_F(Generate, BestAucIsThatOfTheLogitOnTheTestRows) {
  const GenerateConfig config{600, 150, 9000, 3};
  const PlantedData data(config);
  for (const char* rule : {"time", "user-time"}) {
    TemporaryDirectory folder;
    const auto json = write_dataset(folder / "d", data.ratings(false), {.split = {.rule = rule}},
                                    [&](const PreparedRows& rows) { return data.describe(rows); });
    const Dataset dataset(folder / "d");
    EXPECT_EQ(dataset.description(), json);
    std::vector<double> scores[2];
    double inside = 0;
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      // Ids are u1, u2, … and i1, i2, ….
      const auto number = [](std::string_view id) {
        return std::stoi(std::string(id.substr(1))) - 1;
      };
      const int user = number(dataset.user_id(dataset.user()[row])),
                item = number(dataset.item_id(dataset.item()[row]));
      inside += data.user_community(user) == data.item_community(item);
      EXPECT_EQ(dataset.title(dataset.item()[row]), data.title(item));
      if (dataset.split(row) == Split::test)
        scores[dataset.label()[row]].push_back(data.logit(user, item));
    }
    double won = 0;
    for (const double positive : scores[1])
      for (const double negative : scores[0])
        won += positive > negative ? 1 : positive == negative ? 0.5 : 0;
    const double auc = won / static_cast<double>(scores[0].size() * scores[1].size());
    EXPECT_NEAR(json["generated"]["best_auc"].get<double>(), auc, 1e-12) << rule;
    EXPECT_NEAR(json["generated"]["inside"].get<double>(), inside / 9000, 1e-12) << rule;
    EXPECT_GT(auc, 0.78) << rule;
    EXPECT_LT(auc, 0.88) << rule;
  }
}

TEST_F(Generate, TheSameBytesAtAnyNumberOfThreads) {
  const auto fingerprint = [](std::int64_t seed, int threads) {
    at::set_num_threads(threads);
    TemporaryDirectory folder;
    // Enough rows for several chunks of every parallel loop.
    const PlantedData data({20000, 3000, 300000, 7, seed});
    return write_dataset(folder / "d", data.ratings(false), {},
                         [&](const PreparedRows& rows) { return data.describe(rows); });
  };
  const int before = at::get_num_threads();
  const auto one = fingerprint(5, 1);
  EXPECT_EQ(fingerprint(5, 2), one);
  EXPECT_EQ(fingerprint(5, 7), one);
  EXPECT_NE(fingerprint(6, 2).at("fingerprint"), one.at("fingerprint"));
  at::set_num_threads(before);
}

TEST_F(Generate, TitlesAreDistinctAndHalfOfTheirCommunitysWords) {
  const PlantedData data({10, 4000, 100, 20});
  const auto adjectives = title_adjectives(), nouns = title_nouns();
  const std::set<std::string_view> known_adjectives(adjectives.begin(), adjectives.end()),
      known_nouns(nouns.begin(), nouns.end());
  EXPECT_EQ(known_adjectives.size(), adjectives.size());
  EXPECT_EQ(known_nouns.size(), nouns.size());
  EXPECT_GE(adjectives.size(), 300u);
  EXPECT_GE(nouns.size(), 300u);
  std::set<std::string> titles;
  std::map<std::int32_t, std::set<std::string>> words;
  for (std::int32_t item = 0; item < 4000; ++item) {
    EXPECT_TRUE(titles.insert(data.title(item)).second) << data.title(item);
    std::istringstream text(data.title(item));
    std::string a, b, c, d, rest;
    ASSERT_TRUE(text >> a >> b >> c >> d) << data.title(item);
    EXPECT_FALSE(text >> rest) << data.title(item);
    EXPECT_TRUE(known_adjectives.contains(a) && known_adjectives.contains(c)) << data.title(item);
    EXPECT_TRUE(known_nouns.contains(b) && known_nouns.contains(d)) << data.title(item);
    EXPECT_TRUE(a != c && b != d) << data.title(item);
    words[data.item_community(item)].insert({b, d});
  }
  std::set<std::set<std::string>> vocabularies;
  for (const auto& [community, own] : words) {
    EXPECT_EQ(own.size(), 8u);
    vocabularies.insert(own);
  }
  EXPECT_EQ(vocabularies.size(), 20u);
}

TEST_F(Generate, RefusesWhatCannotBe) {
  const auto refused = [](const GenerateConfig& config, const std::string& part) {
    try {
      PlantedData data(config);
      ADD_FAILURE() << "accepted; expected " << part;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused({0, 1, 1, 1}, "--users 0");
  refused({1, -1, 1, 1}, "--items -1");
  refused({1, 1, 1, 0}, "--communities 0");
  refused({5, 3, 5, 4}, "--communities 4");
  refused({5, 3, 4, 1}, "--interactions 4");
  refused({5, 3, 16, 1}, "--interactions 16");
  refused({std::int64_t{1} << 31, 3, std::int64_t{1} << 32, 1}, "--users");
  refused({1000000, 1000000, std::int64_t{1} << 31, 1}, "--interactions");
}

}  // namespace
}  // namespace graphlora
