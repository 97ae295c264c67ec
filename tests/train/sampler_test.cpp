#include "train/sampler.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/error.hpp"
#include "data/dataset_writer.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

/// A sampler over the order that a partition with this cut would hold.
struct Ordered {
  TemporaryDirectory directory;
  std::unique_ptr<TrainingOrder> order;
  std::unique_ptr<Sampler> sampler;

  Ordered(const Dataset& dataset, const CutRule& cut, std::int64_t batch_size, std::uint64_t seed,
          std::int64_t block, std::int64_t max_examples) {
    write_training_order(directory.path(), dataset, cut);
    order = std::make_unique<TrainingOrder>(directory.path(), dataset, cut);
    sampler =
        std::make_unique<Sampler>(dataset, cut, *order, batch_size, seed, block, max_examples);
  }
  std::int64_t batches_per_epoch() const { return sampler->batches_per_epoch(); }
  Batch batch(std::int64_t step) const { return sampler->batch(step); }
};

/// 40 users with 5 to 29 ratings each, on disk while the object lives.
struct Planted {
  TemporaryDirectory directory;
  std::unique_ptr<Dataset> dataset;

  explicit Planted(const std::string& split) {
    RawRatings raw;
    SplitMix64 random(11);
    for (int user = 0; user < 40; ++user) {
      const int count = 5 + static_cast<int>(random.below(25));
      for (int i = 0; i < count; ++i) {
        raw.add(fmt::format("u{}", user), fmt::format("i{}", random.below(60)),
                static_cast<float>(1 + random.below(5)),
                static_cast<std::int64_t>(1000 + random.below(2000)));
      }
    }
    PrepareConfig config;
    config.split.rule = split;
    write_dataset(directory / "data", std::move(raw), config);
    dataset = std::make_unique<Dataset>(directory / "data");
  }
};

class SamplerCuts : public testing::TestWithParam<std::tuple<CutKind, int>> {};

TEST_P(SamplerCuts, EveryRowOnceAnEpochAndOneGroupABatch) {
  const auto [kind, block] = GetParam();
  const Planted planted(kind == CutKind::fold ? "user-time" : "time");
  const Dataset& dataset = *planted.dataset;
  const CutRule cut(dataset, kind, 5);
  const Ordered sampler(dataset, cut, 12, 7, block, 0);
  const std::vector<std::int64_t> expected = dataset.rows_of(Split::train);
  std::vector<std::vector<std::int64_t>> epochs;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int64_t> rows, in_order;
    std::map<int, int> short_batches;
    for (std::int64_t i = 1; i <= sampler.batches_per_epoch(); ++i) {
      const std::int64_t step = epoch * sampler.batches_per_epoch() + i;
      const Batch batch = sampler.batch(step);
      EXPECT_EQ(batch.step, step);
      EXPECT_EQ(batch.epoch, epoch);
      EXPECT_FALSE(batch.rows.empty());
      EXPECT_LE(batch.rows.size(), 12u);
      if (batch.rows.size() < 12u) ++short_batches[batch.group];
      for (const std::int64_t row : batch.rows) {
        EXPECT_EQ(cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row]),
                  batch.group);
      }
      rows.insert(rows.end(), batch.rows.begin(), batch.rows.end());
    }
    // A group's last batch, and with blocks the one that holds the short block, may be short.
    for (const auto& [group, count] : short_batches) EXPECT_LE(count, block == 1 ? 1 : 2);
    in_order = rows;
    std::sort(rows.begin(), rows.end());
    EXPECT_EQ(rows, expected);
    epochs.push_back(in_order);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

/// The definition: a group's rows in an array of their own, sorted, permuted in blocks.
std::vector<std::int64_t> batch_by_hand(const Dataset& dataset, const CutRule& cut,
                                        std::vector<std::int64_t> used, std::int64_t batch_size,
                                        std::uint64_t seed, std::int64_t block, std::int64_t step) {
  std::vector<std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>> groups(
      cut.groups());
  for (const std::int64_t row : used) {
    groups[cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row])].emplace_back(
        dataset.user()[row], dataset.time()[row], row);
  }
  std::vector<std::pair<int, std::int64_t>> batches;  // group, first block
  for (int g = 0; g < cut.groups(); ++g) {
    std::sort(groups[g].begin(), groups[g].end());
    const std::int64_t blocks = (std::ssize(groups[g]) + block - 1) / block;
    for (std::int64_t first = 0; first < blocks; first += batch_size / block)
      batches.emplace_back(g, first);
  }
  const auto key = [&](const char* purpose, std::uint64_t epoch, std::uint64_t group) {
    return splitmix64(splitmix64(hash_name(seed, purpose) ^ epoch) ^ group);
  };
  const std::int64_t epoch = (step - 1) / std::ssize(batches);
  const KeyedPermutation order(batches.size(), key("batches", epoch, 0));
  const auto [g, first] = batches[order((step - 1) % std::ssize(batches))];
  const auto& rows = groups[g];
  const std::int64_t blocks = (std::ssize(rows) + block - 1) / block;
  const KeyedPermutation shuffled(blocks, key("blocks", epoch, g));
  std::vector<std::int64_t> result;
  for (std::int64_t b = first; b < std::min(blocks, first + batch_size / block); ++b)
    for (std::int64_t i = 0; i < block; ++i)
      if (const std::int64_t at = static_cast<std::int64_t>(shuffled(b)) * block + i;
          at < std::ssize(rows))
        result.push_back(std::get<2>(rows[at]));
  return result;
}

TEST_P(SamplerCuts, BatchesAreThoseOfTheDefinition) {
  const auto [kind, block] = GetParam();
  const Planted planted(kind == CutKind::fold ? "user-time" : "time");
  const Dataset& dataset = *planted.dataset;
  const CutRule cut(dataset, kind, 5);
  for (const std::int64_t limit : {0, 77}) {
    const Ordered sampler(dataset, cut, 12, 7, block, limit);
    const auto used =
        limit > 0 ? dataset.sample(Split::train, limit, 7) : dataset.rows_of(Split::train);
    for (std::int64_t step = 1; step <= 2 * sampler.batches_per_epoch(); ++step)
      EXPECT_EQ(sampler.batch(step).rows, batch_by_hand(dataset, cut, used, 12, 7, block, step));
  }
}

INSTANTIATE_TEST_SUITE_P(Cuts, SamplerCuts,
                         testing::Combine(testing::Values(CutKind::none, CutKind::window,
                                                          CutKind::fold),
                                          testing::Values(1, 3, 12)));

TEST(Sampler, DependsOnSeedAndStepAlone) {
  const Planted planted("time");
  const CutRule cut(*planted.dataset, CutKind::window, 4);
  const Ordered a(*planted.dataset, cut, 8, 1, 1, 0), b(*planted.dataset, cut, 8, 1, 1, 0);
  const Ordered other(*planted.dataset, cut, 8, 2, 1, 0);
  bool differs = false;
  for (const std::int64_t step : {50, 3, 1, 49, 3, 2}) {
    EXPECT_EQ(a.batch(step).rows, b.batch(step).rows);
    EXPECT_EQ(a.batch(step).group, b.batch(step).group);
    differs |= a.batch(step).rows != other.batch(step).rows;
  }
  EXPECT_TRUE(differs);
}

TEST(Sampler, GroupsAreInterleaved) {
  const Planted planted("time");
  const CutRule cut(*planted.dataset, CutKind::window, 4);
  const Ordered sampler(*planted.dataset, cut, 4, 1, 1, 0);
  int changes = 0;
  std::set<int> early;
  const std::int64_t batches = sampler.batches_per_epoch();
  for (std::int64_t step = 2; step <= batches; ++step) {
    changes += sampler.batch(step).group != sampler.batch(step - 1).group;
    if (step <= batches / 2) early.insert(sampler.batch(step).group);
  }
  // In random order 3 of 4 neighbours differ; one group after the other would change 3 times.
  EXPECT_GT(changes, batches / 2);
  EXPECT_EQ(std::ssize(early), cut.groups());
}

TEST(Sampler, BlocksHoldNeighboursOfOneGroupSortedByUserAndTime) {
  const Planted planted("time");
  const Dataset& dataset = *planted.dataset;
  const CutRule cut(dataset, CutKind::none, 1);
  const Ordered sampler(dataset, cut, 6, 3, 6, 0);  // one block a batch
  std::vector<std::int64_t> sorted = dataset.rows_of(Split::train);
  std::sort(sorted.begin(), sorted.end(), [&](std::int64_t a, std::int64_t b) {
    return std::tuple(dataset.user()[a], dataset.time()[a], a) <
           std::tuple(dataset.user()[b], dataset.time()[b], b);
  });
  for (std::int64_t step = 1; step <= sampler.batches_per_epoch(); ++step) {
    const auto rows = sampler.batch(step).rows;
    const auto at = std::search(sorted.begin(), sorted.end(), rows.begin(), rows.end());
    ASSERT_NE(at, sorted.end());
    EXPECT_EQ((at - sorted.begin()) % 6, 0);
  }
}

TEST(Sampler, MaxExamplesIsTheSampleOfLeastHashes) {
  const Planted planted("time");
  const CutRule cut(*planted.dataset, CutKind::window, 4);
  const Ordered sampler(*planted.dataset, cut, 8, 5, 1, 30);
  std::vector<std::int64_t> rows;
  for (std::int64_t step = 1; step <= sampler.batches_per_epoch(); ++step) {
    const auto batch = sampler.batch(step).rows;
    rows.insert(rows.end(), batch.begin(), batch.end());
  }
  std::vector<std::int64_t> expected = planted.dataset->sample(Split::train, 30, 5);
  std::sort(rows.begin(), rows.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(rows, expected);
  EXPECT_EQ(rows.size(), 30u);
}

TEST(Sampler, ABatchLargerThanTheData) {
  const Planted planted("time");
  const CutRule cut(*planted.dataset, CutKind::none, 1);
  const Ordered sampler(*planted.dataset, cut, 1 << 20, 5, 1, 0);
  EXPECT_EQ(sampler.batches_per_epoch(), 1);
  EXPECT_EQ(sampler.batch(1).rows.size(), planted.dataset->rows_of(Split::train).size());
}

TEST(Sampler, BatchAndBlockMustFit) {
  const Planted planted("time");
  const CutRule cut(*planted.dataset, CutKind::none, 1);
  EXPECT_THROW(Ordered(*planted.dataset, cut, 0, 1, 1, 0), ConfigError);
  EXPECT_THROW(Ordered(*planted.dataset, cut, 8, 1, 0, 0), ConfigError);
  EXPECT_THROW(Ordered(*planted.dataset, cut, 8, 1, 3, 0), ConfigError);
}

/// Examples that share nothing.
std::vector<ExampleCost> costs(const std::vector<std::int64_t>& lengths) {
  std::vector<ExampleCost> all;
  for (const std::int64_t length : lengths) all.push_back({length, 0, all.size()});
  return all;
}

TEST(Deal, GroupsStayTogetherWhereThatIsNoLoss) {
  using Shares = std::vector<std::vector<std::size_t>>;
  // Two users of 4 examples: 100 tokens in common, 10 private ones.
  std::vector<ExampleCost> examples;
  for (std::size_t i = 0; i < 8; ++i) examples.push_back({110, 100, i % 2});
  EXPECT_EQ(deal(examples, 2), (Shares{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(deal(examples, 1), (Shares{{0, 1, 2, 3, 4, 5, 6, 7}}));
  // For four replicas halves of the groups are better: 120 tokens at most and not 140.
  EXPECT_EQ(deal(examples, 4), (Shares{{0, 2}, {1, 3}, {4, 6}, {5, 7}}));
  // One user alone is divided where little is shared.
  EXPECT_EQ(deal(std::vector<ExampleCost>{{9, 1, 5}, {9, 1, 5}, {9, 1, 5}, {9, 1, 5}}, 2),
            (Shares{{0, 1}, {2, 3}}));
}

TEST(Deal, LongestFirstToTheLeastLoaded) {
  const std::vector<std::int64_t> lengths{5, 9, 2, 7, 4, 9};
  // 9(1)→0, 9(5)→1, 7(3)→2, 5(0)→2, 4(4)→0, 2(2)→1
  const auto shares = deal(costs(lengths), 3);
  EXPECT_EQ(shares, (std::vector<std::vector<std::size_t>>{{1, 4}, {2, 5}, {0, 3}}));
}

TEST(Deal, EveryExampleOnceAndFewerExamplesThanReplicas) {
  EXPECT_EQ(deal(costs({3}), 3), (std::vector<std::vector<std::size_t>>{{0}, {}, {}}));
  EXPECT_EQ(deal({}, 2), (std::vector<std::vector<std::size_t>>{{}, {}}));
  SplitMix64 random(1);
  std::vector<std::int64_t> lengths(100);
  for (auto& length : lengths) length = 20 + static_cast<std::int64_t>(random.below(300));
  const auto shares = deal(costs(lengths), 7);
  std::vector<std::size_t> all;
  std::int64_t least = 1 << 30, most = 0;
  for (const auto& share : shares) {
    EXPECT_TRUE(std::is_sorted(share.begin(), share.end()));
    all.insert(all.end(), share.begin(), share.end());
    std::int64_t tokens = 0;
    for (const std::size_t i : share) tokens += lengths[i];
    least = std::min(least, tokens);
    most = std::max(most, tokens);
  }
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(all.at(i), i);
  EXPECT_LT(static_cast<double>(most), 1.05 * static_cast<double>(least));
}

}  // namespace
}  // namespace graphlora
