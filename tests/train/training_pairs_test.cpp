// A rank's training rows against the whole list, and the rows that travel for them.
#include "train/training_pairs.hpp"

#include <gtest/gtest.h>

#include <set>

#include "core/rng.hpp"
#include "support/tiny_world.hpp"

namespace graphlora::test {
namespace {

constexpr std::int64_t kWidth = 5;

/// Owners by hash, in falling node order; rank 1 of several owns nothing.
int owner_of(std::int64_t node) {
  const int ranks = world().size();
  const int owner = static_cast<int>(splitmix64(static_cast<std::uint64_t>(node)) % ranks);
  return owner == 1 ? ranks - 1 : owner;
}

at::Tensor owned_nodes(const Dataset& dataset) {
  std::vector<std::int64_t> nodes;
  for (std::int64_t node = dataset.nodes() - 1; node >= 0; --node)
    if (owner_of(node) == world().rank()) nodes.push_back(node);
  return at::tensor(nodes, at::kLong);
}

TEST(TrainingPairs, AreTheBatchesOfTheWholeListInOrder) {
  const SharedDataset shared("user-time", 41, 29);
  const Dataset dataset(shared.path());
  const NodeMap map(world(), owned_nodes(dataset), dataset.nodes());
  const std::vector<std::int64_t> train = dataset.rows_of(Split::train);
  TrainingPairs pairs(dataset, map, world().rank());
  ASSERT_EQ(pairs.total(), std::ssize(train));
  const auto is_here = [](std::int64_t node) { return owner_of(node) == world().rank(); };
  for (const std::int64_t batch_size : {1, 7, 1000}) {
    for (const std::uint64_t key : {3, 4}) {
      pairs.start_epoch(key, batch_size);
      const KeyedPermutation order(train.size(), key);
      std::int64_t position = 0;
      ASSERT_EQ(pairs.batches(), (pairs.total() + batch_size - 1) / batch_size);
      for (std::int64_t batch = 0; batch < pairs.batches(); ++batch) {
        std::vector<PairExchange::Pair> read;
        std::vector<std::uint8_t> labels;
        pairs.read(batch, read, labels);
        std::size_t next = 0;
        for (std::int64_t i = 0; i < pairs.batch_rows(batch); ++i, ++position) {
          const std::int64_t row = train[order(position)];
          if (!is_here(dataset.user_node(row)) && !is_here(dataset.item_node(row))) continue;
          ASSERT_LT(next, read.size());
          EXPECT_EQ(read[next].user, dataset.user_node(row));
          EXPECT_EQ(read[next].item, dataset.item_node(row));
          EXPECT_EQ(labels[next], dataset.label()[row]);
          ++next;
        }
        EXPECT_EQ(next, read.size());
      }
      EXPECT_EQ(position, pairs.total());
    }
  }
}

TEST(TrainingPairs, KnowWhichNodesAreTrained) {
  const SharedDataset shared("time", 41, 29);
  const Dataset dataset(shared.path());
  const at::Tensor owned = owned_nodes(dataset);
  const NodeMap map(world(), owned, dataset.nodes());
  const TrainingPairs pairs(dataset, map, world().rank());
  std::set<std::int64_t> expected;
  for (const std::int64_t row : dataset.rows_of(Split::train))
    expected.insert({dataset.user_node(row), dataset.item_node(row)});
  const auto trained = pairs.trained(map, world().rank(), owned.size(0));
  EXPECT_LT(std::ssize(expected), dataset.nodes()) << "no cold node: nothing was tested";
  for (std::int64_t i = 0; i < owned.size(0); ++i)
    EXPECT_EQ(trained[i] != 0, expected.count(owned[i].item<std::int64_t>()) > 0);
}

TEST(PairExchange, BringsEachRowOnceToEachRankThatNeedsIt) {
  const SharedDataset shared("user-time", 41, 29);
  const Dataset dataset(shared.path());
  const at::Tensor owned = owned_nodes(dataset);
  const std::int64_t n = owned.size(0);
  const NodeMap map(world(), owned, dataset.nodes());
  // Each row names its node.
  at::Tensor table_nD = owned.to(at::kFloat).unsqueeze(1).repeat({1, kWidth});
  std::vector<PairExchange::Pair> list;
  for (std::int64_t row = 0; row < dataset.rows(); ++row) {
    list.push_back({static_cast<std::uint32_t>(dataset.user_node(row)),
                    static_cast<std::uint32_t>(dataset.item_node(row))});
  }
  for (const bool both : {false, true}) {
    PairExchange exchange(world(), map, n, both);
    PairExchange::Buffers buffers;
    for (const std::size_t count : {list.size(), std::size_t{9}, std::size_t{0}}) {
      const std::span<const PairExchange::Pair> pairs(list.data(), count);
      exchange.assign(pairs);
      world().reset_counters();
      Handle handle = exchange.start(table_nD, buffers, Traffic::pretrain);
      const at::Tensor kept = table_nD.clone();
      table_nD.fill_(-1);  // what was issued is on its way
      handle.wait();
      table_nD.copy_(kept);
      const auto node_of = [&](std::uint32_t row) {
        return row < n ? table_nD[row][kWidth - 1].item<float>()
                       : buffers.received[row - n][kWidth - 1].item<float>();
      };
      std::set<std::pair<int, std::uint32_t>> sent;
      std::size_t places = 0;
      for (std::size_t i = 0; i < count; ++i) {
        const int user = owner_of(pairs[i].user), item = owner_of(pairs[i].item);
        const int rank = world().rank();
        if (item == rank && user != rank) sent.emplace(user, pairs[i].item);
        if (both && user == rank && item != rank) sent.emplace(item, pairs[i].user);
        if (user != rank && (!both || item != rank)) continue;
        if (places >= exchange.places().size()) {
          ADD_FAILURE() << "a pair is missing";
          break;
        }
        const auto& place = exchange.places()[places++];
        EXPECT_EQ(place.pair, i);
        EXPECT_EQ(node_of(place.user), static_cast<float>(pairs[i].user));
        EXPECT_EQ(node_of(place.item), static_cast<float>(pairs[i].item));
        EXPECT_EQ(exchange.owns(place.user), user == rank);
        EXPECT_EQ(exchange.owns(place.item), item == rank);
      }
      EXPECT_EQ(places, exchange.places().size());
      EXPECT_EQ(world().counter(Traffic::pretrain).bytes,
                std::ssize(sent) * kWidth * static_cast<std::int64_t>(sizeof(float)));
    }
  }
}

}  // namespace
}  // namespace graphlora::test
