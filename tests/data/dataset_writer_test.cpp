#include "data/dataset_writer.hpp"

#include <gtest/gtest.h>

#include <ctime>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <tuple>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"
#include "data/dataset.hpp"
#include "data/negatives.hpp"
#include "support/slowdown.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

struct Row {
  std::string user, item;
  float rating;
  std::int64_t time;
};

std::vector<Row> random_rows(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Row> rows;
  for (int i = 0; i < count; ++i)
    rows.push_back({fmt::format("u{}", random() % 13), fmt::format("i{}", random() % 29),
                    static_cast<float>(1 + random() % 5),
                    static_cast<std::int64_t>(random() % 50)});
  return rows;
}

RawRatings raw_of(const std::vector<Row>& rows) {
  RawRatings raw;
  for (const Row& r : rows) raw.add(r.user, r.item, r.rating, r.time);
  return raw;
}

TEST(WriteDataset, EqualsAnIndependentComputation) {
  const std::vector<Row> rows = random_rows(400, 3);
  TemporaryDirectory folder;
  RawRatings raw = raw_of(rows);
  for (int i = 0; i < 29; i += 2) raw.set_title(fmt::format("i{}", i), fmt::format("Film «{}»", i));
  const auto json = write_dataset(folder / "d", std::move(raw), {.split = {.rule = "time"}});
  const Dataset dataset(folder / "d");

  // Last row of each pair by (time, source order), then all by (time, source order).
  std::map<std::pair<std::string, std::string>, std::pair<std::int64_t, int>> last;
  for (int i = 0; i < static_cast<int>(rows.size()); ++i) {
    auto& best = last.try_emplace({rows[i].user, rows[i].item}, rows[i].time, i).first->second;
    best = std::max(best, std::pair{rows[i].time, i});
  }
  std::set<std::pair<std::int64_t, int>> expected;
  for (const auto& [pair, when] : last) expected.insert(when);
  ASSERT_EQ(dataset.rows(), static_cast<std::int64_t>(expected.size()));
  EXPECT_EQ(json["duplicates"], rows.size() - expected.size());

  std::vector<std::string> users, items;
  std::map<std::string, std::vector<std::pair<std::int64_t, std::string>>> liked;
  std::int64_t row = 0, missing = 0;
  for (const auto& [time, source] : expected) {
    const Row& r = rows[source];
    if (std::find(users.begin(), users.end(), r.user) == users.end()) users.push_back(r.user);
    if (std::find(items.begin(), items.end(), r.item) == items.end()) items.push_back(r.item);
    EXPECT_EQ(dataset.user_id(dataset.user()[row]), r.user);
    EXPECT_EQ(dataset.item_id(dataset.item()[row]), r.item);
    EXPECT_EQ(dataset.user()[row], std::find(users.begin(), users.end(), r.user) - users.begin());
    EXPECT_EQ(dataset.item()[row], std::find(items.begin(), items.end(), r.item) - items.begin());
    EXPECT_EQ(dataset.item_node(row), dataset.users() + dataset.item()[row]);
    EXPECT_EQ(dataset.rating()[row], r.rating);
    EXPECT_EQ(dataset.label()[row], r.rating > 3);
    EXPECT_EQ(dataset.time()[row], r.time);
    if (r.rating > 3) liked[r.user].emplace_back(r.time, r.item);
    ++row;
  }
  EXPECT_EQ(dataset.users(), static_cast<std::int64_t>(users.size()));
  EXPECT_EQ(dataset.items(), static_cast<std::int64_t>(items.size()));
  for (std::int64_t i = 0; i < dataset.items(); ++i) {
    const int number = std::stoi(items[i].substr(1));
    missing += number % 2;
    EXPECT_EQ(dataset.title(i), number % 2 ? items[i] : fmt::format("Film «{}»", number));
  }
  EXPECT_EQ(json["missing_titles"], missing);

  for (std::int64_t u = 0; u < dataset.users(); ++u) {
    for (const std::int64_t before : {-1, 0, 7, 25, 49, 1000}) {
      for (const std::int64_t limit : {0, 1, 3, 1000}) {
        std::vector<std::string> want, got;
        for (const auto& [time, item] : liked[users[u]])
          if (time < before) want.push_back(item);
        if (static_cast<std::int64_t>(want.size()) > limit)
          want.erase(want.begin(), want.end() - limit);
        for (const std::int64_t item : dataset.liked_before(u, before, limit))
          got.emplace_back(dataset.item_id(item));
        EXPECT_EQ(got, want) << "user " << u << " before " << before << " limit " << limit;
      }
    }
  }

  std::set<std::int64_t> train_users, train_items;
  for (const std::int64_t r : dataset.rows_of(Split::train)) {
    train_users.insert(dataset.user()[r]);
    train_items.insert(dataset.item()[r]);
  }
  for (row = 0; row < dataset.rows(); ++row)
    EXPECT_EQ(dataset.warm(row), train_users.contains(dataset.user()[row]) &&
                                     train_items.contains(dataset.item()[row]));
}

TEST(WriteDataset, KeepsTheLastDuplicateAlsoAtEqualTimes) {
  TemporaryDirectory folder;
  RawRatings raw;
  raw.add("a", "x", 5, 10);
  raw.add("a", "x", 1, 30);
  raw.add("a", "x", 4, 20);
  raw.add("b", "x", 1, 5);
  raw.add("b", "x", 5, 5);
  const auto json = write_dataset(folder / "d", std::move(raw), {.split = {.valid = 0, .test = 0}});
  const Dataset dataset(folder / "d");
  EXPECT_EQ(json["duplicates"], 3);
  ASSERT_EQ(dataset.rows(), 2);
  EXPECT_EQ(dataset.user_id(dataset.user()[0]), "b");
  EXPECT_EQ(dataset.rating()[0], 5);
  EXPECT_EQ(dataset.rating()[1], 1);
}

TEST(WriteDataset, ARatingEqualToTheThresholdIsNotLiked) {
  TemporaryDirectory folder;
  RawRatings raw;
  raw.add("a", "x", 3.7F, 1);
  raw.add("b", "x", 3.8F, 2);
  write_dataset(folder / "d", std::move(raw),
                {.split = {.valid = 0, .test = 0}, .label_above = 3.7});
  const Dataset dataset(folder / "d");
  EXPECT_EQ(dataset.label()[0], 0);
  EXPECT_EQ(dataset.label()[1], 1);
}

TEST(WriteDataset, SampleIsTheLeastHashesInOrder) {
  TemporaryDirectory folder;
  write_dataset(folder / "d", raw_of(random_rows(300, 5)), {.split = {.rule = "user-time"}});
  const Dataset dataset(folder / "d");
  EXPECT_TRUE(dataset.user_time_split());
  std::vector<std::pair<std::uint64_t, std::int64_t>> all;
  for (std::int64_t row = 0; row < dataset.rows(); ++row)
    if (dataset.split(row) == Split::train)
      all.emplace_back(splitmix64(9 * 0x9E3779B97F4A7C15ULL + row), row);
  std::sort(all.begin(), all.end());
  std::vector<std::int64_t> want;
  for (const auto& [hash, row] : all) want.push_back(row);
  EXPECT_EQ(dataset.sample(Split::train, 0, 9), want);
  EXPECT_EQ(dataset.sample(Split::train, 1'000'000, 9), want);
  want.resize(20);
  EXPECT_EQ(dataset.sample(Split::train, 20, 9), want);
}

TEST(WriteDataset, FingerprintFollowsTheContentOnly) {
  TemporaryDirectory folder;
  std::vector<Row> rows = random_rows(100, 1);
  const auto fingerprint = [&](const std::string& name, const PrepareConfig& config = {}) {
    RawRatings raw = raw_of(rows);
    raw.sources.push_back({{"file", name}});
    return write_dataset(folder / name, std::move(raw), config).at("fingerprint");
  };
  const auto first = fingerprint("a");
  EXPECT_EQ(fingerprint("b"), first);
  EXPECT_NE(fingerprint("c", {.label_above = 2}), first);
  EXPECT_NE(fingerprint("d", {.split = {.rule = "user-time"}}), first);
  rows.back().rating = rows.back().rating == 1 ? 2 : 1;
  EXPECT_NE(fingerprint("e"), first);
  EXPECT_EQ(Dataset(folder / "a").fingerprint(), first);
}

TEST(WriteDataset, ReplacesAnOlderOneAndLeavesNothingElse) {
  TemporaryDirectory folder;
  write_dataset(folder / "d", raw_of(random_rows(50, 1)), {});
  write_dataset(folder / "d", raw_of(random_rows(80, 2)), {});
  EXPECT_GT(Dataset(folder / "d").rows(), 60);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    names.push_back(entry.path().filename());
  EXPECT_EQ(names, std::vector<std::string>{"d"});
}

TEST(WriteDataset, EdgesOfWhatIsAllowed) {
  TemporaryDirectory folder;
  {  // One user, one row: all of it trains, both other splits are empty.
    RawRatings raw;
    raw.add("only", "one", 5, 1);
    const auto json = write_dataset(folder / "one", std::move(raw), {});
    EXPECT_EQ(json["rows"], (nlohmann::json{{"train", 1}, {"valid", 0}, {"test", 0}}));
    EXPECT_EQ(Dataset(folder / "one").rows_of(Split::test).size(), 0);
  }
  {  // Nothing liked.
    RawRatings raw;
    raw.add("u", "i", 3, 1);
    EXPECT_THROW(write_dataset(folder / "bad", std::move(raw), {}), DataError);
  }
  EXPECT_THROW(write_dataset(folder / "bad", RawRatings{}, {}), DataError);
  {  // All at one time: a boundary would divide equal times, so all rows would be test.
    RawRatings raw;
    for (int i = 0; i < 10; ++i) raw.add("u", fmt::format("{}", i), 5, 1);
    EXPECT_THROW(write_dataset(folder / "bad", std::move(raw), {}), DataError);
  }
  {
    RawRatings raw;
    raw.add("u", "i", 5, 1);
    EXPECT_THROW(write_dataset(folder / "bad", std::move(raw), {.negatives = 4}), ConfigError);
  }
  {
    RawRatings raw;
    raw.kind = RatingKind::click;
    raw.add("u", "i", 1, 1);
    EXPECT_THROW(write_dataset(folder / "bad", std::move(raw), {}), ConfigError);
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "bad"));
}

TEST(WriteDataset, NegativesExistAreNeverLikedAndFollowPopularity) {
  TemporaryDirectory folder;
  std::mt19937 random(11);
  RawRatings raw;
  raw.kind = RatingKind::click;
  // Item i is clicked about 40 - i times; item "late" only appears at the end.
  std::map<std::string, std::set<std::string>> liked;
  std::map<std::string, std::int64_t> first;
  std::int64_t time = 0;
  for (int u = 0; u < 120; ++u) {
    for (int i = 0; i < 40; ++i) {
      if (random() % 40 >= 40 - i) continue;
      if (random() % 3 == 0) continue;
      const std::string user = fmt::format("u{}", u), item = fmt::format("i{}", i);
      raw.add(user, item, 1, time);
      liked[user].insert(item);
      first.try_emplace(item, time);
      time += static_cast<std::int64_t>(random() % 2);
    }
  }
  raw.add("u0", "late", 1, time + 5);
  liked["u0"].insert("late");
  first["late"] = time + 5;
  const std::int64_t clicks = raw.rows();
  const auto json = write_dataset(folder / "d", std::move(raw), {.negatives = 2, .seed = 5});
  const Dataset dataset(folder / "d");
  std::int64_t negatives = 0;
  std::set<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::int64_t row = 0; row < dataset.rows(); ++row) {
    EXPECT_TRUE(pairs.insert({dataset.user()[row], dataset.item()[row]}).second);
    if (dataset.label()[row]) continue;
    ++negatives;
    const std::string user(dataset.user_id(dataset.user()[row])),
        item(dataset.item_id(dataset.item()[row]));
    EXPECT_FALSE(liked[user].contains(item));
    EXPECT_LE(first[item], dataset.time()[row]);
  }
  EXPECT_EQ(dataset.rows(), clicks + negatives);
  EXPECT_EQ(json["missing_negatives"], 2 * clicks - negatives);
}

/// The definition, without any shortcut.
std::vector<std::pair<std::int64_t, std::int32_t>> negatives_by_definition(
    const std::vector<std::int32_t>& user, const std::vector<std::int32_t>& item,
    const std::vector<std::int64_t>& time, std::int32_t items, std::int64_t k, std::uint64_t seed) {
  std::set<std::pair<std::int32_t, std::int32_t>> taken;
  for (std::size_t row = 0; row < user.size(); ++row) taken.insert({user[row], item[row]});
  std::vector<double> clicks(items, 0);
  SplitMix64 random(hash_name(seed, "negatives"));
  const auto pick = [&](auto allowed, double share) {
    double total = 0;
    for (std::int32_t i = 0; i < items; ++i) total += allowed(i) ? std::pow(clicks[i], 0.75) : 0;
    double left = share * total;
    for (std::int32_t i = 0; i < items; ++i) {
      if (!allowed(i) || clicks[i] == 0) continue;
      left -= std::pow(clicks[i], 0.75);
      if (left < 0) return i;
    }
    return -1;
  };
  std::vector<std::pair<std::int64_t, std::int32_t>> out;
  for (std::size_t row = 0; row < user.size(); ++row) {
    for (std::size_t r = row; r < user.size() && time[r] == time[row]; ++r)
      if (row == 0 || time[row - 1] != time[row]) ++clicks[item[r]];
    const auto free = [&](std::int32_t i) { return !taken.contains({user[row], i}); };
    for (std::int64_t n = 0; n < k; ++n) {
      std::int32_t drawn = -1;
      for (int attempt = 0; attempt < 32 && drawn < 0; ++attempt) {
        drawn = pick([](std::int32_t) { return true; }, random.uniform());
        if (!free(drawn)) drawn = -1;
      }
      const auto exists = [&](std::int32_t i) { return free(i) && clicks[i] > 0; };
      bool any = drawn >= 0;
      for (std::int32_t i = 0; i < items && !any; ++i) any = exists(i);
      if (!any) break;
      if (drawn < 0) drawn = pick(exists, random.uniform());
      taken.insert({user[row], drawn});
      out.emplace_back(row, drawn);
    }
  }
  return out;
}

TEST(DrawNegatives, AUserWhoHasEverythingChangesNoOthersDraws) {
  // Users 0 and 1 click (nearly) everything, before and after it exists for others.
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs;
  std::mt19937 random(7);
  for (std::int32_t u = 0; u < 12; ++u)
    for (std::int32_t i = 0; i < 30; ++i)
      if (u == 0 || (u == 1 && i != 17) || random() % 5 == 0) pairs.emplace_back(u, i);
  std::shuffle(pairs.begin(), pairs.end(), random);
  std::vector<std::int32_t> user, item;
  std::vector<std::int64_t> time;
  for (const auto& [u, i] : pairs) {
    time.push_back(static_cast<std::int64_t>(user.size()) / 2);
    user.push_back(u), item.push_back(i);
  }
  for (const std::int64_t k : {1, 3, 20}) {
    const auto expected = negatives_by_definition(user, item, time, 30, k, 5);
    std::vector<std::pair<std::int64_t, std::int32_t>> drawn;
    for (const Negative& n : draw_negatives(user, item, time, 12, 30, k, 5))
      drawn.emplace_back(n.row, n.item);
    EXPECT_EQ(drawn, expected) << k;
    EXPECT_LT(drawn.size(), user.size() * k);
  }
}

TEST(DrawNegatives, AUserWhoHasEverythingCostsNothing) {
  constexpr std::int32_t kItems = 60000;
  std::vector<std::int32_t> user(kItems, 0), item(kItems);
  std::vector<std::int64_t> time(kItems);
  std::iota(item.begin(), item.end(), 0);
  std::iota(time.begin(), time.end(), 0);
  const std::clock_t start = std::clock();
  EXPECT_TRUE(draw_negatives(user, item, time, 1, kItems, 4, 1).empty());
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 1 * test::kSlowdown);
}

TEST(DrawNegatives, HasThePromisedDistribution) {
  // 64 clicks on item 0, 16 on item 1, 1 on item 2, all before user 0's many clicks on item 3 …
  // each by another user, so that a draw for user u excludes only item 3.
  std::vector<std::int32_t> user, item;
  std::vector<std::int64_t> time;
  std::int32_t next_user = 0;
  const auto click = [&](std::int32_t i, std::int64_t t, int times) {
    for (int n = 0; n < times; ++n)
      user.push_back(next_user++), item.push_back(i), time.push_back(t);
  };
  click(0, 0, 64);
  click(1, 0, 16);
  click(2, 0, 1);
  const std::int64_t begin = static_cast<std::int64_t>(user.size());
  click(3, 1, 30000);
  const auto drawn = draw_negatives(user, item, time, next_user, 4, 1, 3);
  std::array<double, 4> count{};
  double total = 0;
  for (const Negative& n : drawn) {
    if (n.row < begin) continue;
    ++count[n.item];
    ++total;
  }
  EXPECT_EQ(total, 30000);
  const double weights[] = {std::pow(64, .75), 8, 1};
  const double sum = weights[0] + weights[1] + weights[2];
  for (int i = 0; i < 3; ++i) {
    const double p = weights[i] / sum, error = std::sqrt(p * (1 - p) / total);
    EXPECT_NEAR(count[i] / total, p, 5 * error) << i;
  }
  EXPECT_EQ(count[3], 0);
  // Repeatable, and another seed gives another draw.
  const auto again = draw_negatives(user, item, time, next_user, 4, 1, 3);
  const auto other = draw_negatives(user, item, time, next_user, 4, 1, 4);
  const auto same = [](const Negative& a, const Negative& b) {
    return a.row == b.row && a.item == b.item;
  };
  EXPECT_TRUE(std::equal(drawn.begin(), drawn.end(), again.begin(), again.end(), same));
  EXPECT_FALSE(std::equal(drawn.begin(), drawn.end(), other.begin(), other.end(), same));
}

}  // namespace
}  // namespace graphlora
