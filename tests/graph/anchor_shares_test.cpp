#include "graph/anchor_shares.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "core/rng.hpp"
#include "data/dataset_writer.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

void write_random(const std::filesystem::path& directory, const char* rule, unsigned seed) {
  std::mt19937 random(seed);
  RawRatings raw;
  for (int i = 0; i < 260; ++i)
    raw.add(std::to_string(random() % 60), std::to_string(random() % 45),
            static_cast<float>(1 + random() % 5), static_cast<std::int64_t>(random() % 70));
  write_dataset(directory, std::move(raw), {.split = {.rule = rule}});
}

/// By the definitions: the nodes that rows `edges` touch, and how many of `rows` lie on them.
AnchorShare by_hand(const Dataset& d, const std::vector<std::int64_t>& rows,
                    const std::function<bool(std::int64_t row, std::int64_t edge)>& sees) {
  AnchorShare share;
  for (const std::int64_t row : rows) {
    bool user = false, item = false;
    for (std::int64_t edge = 0; edge < d.rows(); ++edge) {
      if (d.split(edge) != Split::train || !d.label()[edge] || !sees(row, edge)) continue;
      user |= d.user()[edge] == d.user()[row];
      item |= d.item()[edge] == d.item()[row];
    }
    ++share.rows, share.users += user, share.items += item;
  }
  return share;
}

void expect_equal(const AnchorShare& a, const AnchorShare& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.users, b.users);
  EXPECT_EQ(a.items, b.items);
}

TEST(AnchorShares, EqualTheDefinitionForEverySplitAndCut) {
  for (const char* rule : {"time", "user-time"}) {
    TemporaryDirectory folder;
    write_random(folder / "d", rule, 4);
    const Dataset d(folder / "d");
    for (const Split split : {Split::train, Split::valid, Split::test})
      expect_equal(anchor_share(d, split),
                   by_hand(d, d.rows_of(split), [](auto, auto) { return true; }));

    const auto train = d.rows_of(Split::train);
    const CutRule window(d, CutKind::window, 5);
    const auto group = [&](const CutRule& cut, std::int64_t row) {
      return cut.group(d.user()[row], d.item()[row], d.time()[row]);
    };
    const auto windows = training_anchor_shares(d, window);
    ASSERT_EQ(static_cast<int>(windows.size()), window.groups());
    for (int w = 0; w < window.groups(); ++w) {
      std::vector<std::int64_t> rows;
      std::int64_t start = std::numeric_limits<std::int64_t>::max();
      for (const std::int64_t row : train) {
        if (group(window, row) != w) continue;
        rows.push_back(row);
        start = std::min(start, d.time()[row]);
      }
      expect_equal(windows[w],
                   by_hand(d, rows, [&](auto, auto edge) { return d.time()[edge] < start; }));
    }
    EXPECT_EQ(windows[0].users, 0);

    const auto fold_of = [&](std::int64_t row) {
      return splitmix64((static_cast<std::uint64_t>(d.user()[row]) << 32) +
                        static_cast<std::uint64_t>(d.item()[row])) %
             8;
    };
    expect_equal(
        total(training_anchor_shares(d, CutRule(d, CutKind::fold, 8))),
        by_hand(d, train, [&](auto row, auto edge) { return fold_of(row) != fold_of(edge); }));
    expect_equal(total(training_anchor_shares(d, CutRule(d, CutKind::none, 1))),
                 by_hand(d, train, [](auto, auto) { return true; }));
  }
}

TEST(AnchorShares, ReadBackFromJson) {
  TemporaryDirectory folder;
  write_random(folder / "d", "time", 4);
  const Dataset d(folder / "d");
  const AnchorShares shares = anchor_shares(d, CutRule(d, CutKind::window, 5));
  const nlohmann::json json = to_json(shares);
  const AnchorShares read = anchor_shares_from_json(json);
  ASSERT_EQ(read.train.size(), shares.train.size());
  for (std::size_t g = 0; g < read.train.size(); ++g) expect_equal(read.train[g], shares.train[g]);
  expect_equal(read.valid, anchor_share(d, Split::valid));
  expect_equal(read.test, anchor_share(d, Split::test));
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"train", 3},
                                   {"test", nullptr},
                                   {"valid", {{"rows", 2}, {"users", 3}, {"items", 0}}}}) {
    nlohmann::json damaged = json;
    damaged[key] = value;
    EXPECT_THROW(anchor_shares_from_json(damaged), DataError) << key;
  }
}

TEST(AnchorShares, WarnBeyondAFactorOfTwo) {
  TemporaryDirectory folder;
  write_random(folder / "d", "time", 1);
  const CutRule cut(Dataset(folder / "d"), CutKind::window, 4);
  const AnchorShare all{100, 100, 100}, half{100, 50, 100}, less{100, 49, 100}, few{100, 100, 40};
  EXPECT_EQ(anchor_share_warning(all, all, cut), "");
  EXPECT_EQ(anchor_share_warning(half, all, cut), "");
  EXPECT_NE(anchor_share_warning(less, all, cut), "");
  EXPECT_NE(anchor_share_warning(all, less, cut), "");
  EXPECT_NE(anchor_share_warning(few, all, cut), "");
  EXPECT_EQ(anchor_share_warning(all, {}, cut), "");
  EXPECT_EQ(to_json(AnchorShare{})["user"], nullptr);
  EXPECT_EQ(to_json(half)["user"], 0.5);
}

}  // namespace
}  // namespace graphlora
