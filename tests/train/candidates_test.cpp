// Retrieval over shards against every product computed in one place.
#include "train/candidates.hpp"

#include <gtest/gtest.h>

#include <set>

#include "core/error.hpp"
#include "support/tiny_world.hpp"
#include "train/dot_product.hpp"
#include "train/pretrain.hpp"
#include "train/seen_items.hpp"

namespace graphlora::test {
namespace {

constexpr std::int64_t kUsers = 23, kItems = 301, kWidth = 37, kNodes = kUsers + kItems;

/// E over ranks that own the nodes in no order, with coarse values so that products tie.
struct Planted {
  at::Tensor all_ND, owned, own_nD;
  std::unique_ptr<NodeMap> map;

  explicit Planted(at::ScalarType type, double levels) {
    all_ND = at::empty({kNodes, kWidth}, at::kDouble);
    SplitMix64 random(3);
    for (std::int64_t i = 0; i < all_ND.numel(); ++i)
      all_ND.mutable_data_ptr<double>()[i] = std::round(random.normal() * levels) / levels;
    // Two users and three items without training rows.
    for (const std::int64_t node :
         std::array<std::int64_t, 5>{4, 9, kUsers + 1, kUsers + 7, kUsers + 300})
      all_ND[node] = 0;
    all_ND = all_ND.to(type);
    std::vector<std::int64_t> nodes;
    const KeyedPermutation order(kNodes, 5);
    for (std::int64_t i = 0; i < kNodes; ++i) {
      const auto node = static_cast<std::int64_t>(order(i));
      if (static_cast<int>(splitmix64(node) % world().size()) == world().rank())
        nodes.push_back(node);
    }
    owned = at::tensor(nodes, at::kLong);
    own_nD = all_ND.index_select(0, owned);
    map = std::make_unique<NodeMap>(world(), owned, kNodes);
  }
  CandidateSearch search(bool bias = false) const {
    return {world(), *map, owned, kUsers, own_nD, bias};
  }
  float score(const at::Tensor& query_D, std::int64_t item) const {
    const at::Tensor row = all_ND[kUsers + item].contiguous();
    if (all_ND.scalar_type() == at::kDouble)
      return static_cast<float>(
          dot(query_D.const_data_ptr<double>(), row.const_data_ptr<double>(), kWidth));
    return dot(query_D.const_data_ptr<float>(), row.const_data_ptr<float>(), kWidth);
  }
  /// All items that are not excluded, best first.
  std::vector<Candidate> sorted(const at::Tensor& query_D,
                                std::span<const std::int32_t> excluded) const {
    std::vector<Candidate> all;
    for (std::int64_t item = 0; item < kItems; ++item)
      if (std::find(excluded.begin(), excluded.end(), item) == excluded.end())
        all.push_back({item, score(query_D, item)});
    std::stable_sort(all.begin(), all.end(),
                     [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    return all;
  }
};

std::vector<Recipient> all_users() {
  std::vector<Recipient> recipients;
  for (std::int64_t user = 0; user < kUsers; ++user) recipients.push_back({user, {}});
  return recipients;
}

std::vector<std::vector<std::int32_t>> some_excluded() {
  std::vector<std::vector<std::int32_t>> lists;
  SplitMix64 random(8);
  for (std::int64_t user = 0; user < kUsers; ++user) {
    std::set<std::int32_t> items;
    for (std::int64_t i = 0; i < user * 7; ++i)
      items.insert(static_cast<std::int32_t>(random.below(kItems)));
    lists.emplace_back(items.begin(), items.end());
  }
  lists.back().clear();
  for (std::int32_t item = 0; item < kItems; ++item) lists.back().push_back(item);  // all of them
  return lists;
}

std::vector<std::span<const std::int32_t>> spans(
    const std::vector<std::vector<std::int32_t>>& lists) {
  return {lists.begin(), lists.end()};
}

class CandidatesTest : public ::testing::TestWithParam<std::pair<at::ScalarType, double>> {};

TEST_P(CandidatesTest, BestEqualsASortOfEverything) {
  const Planted planted(GetParam().first, GetParam().second);
  const CandidateSearch search = planted.search();
  const auto recipients = all_users();
  const auto excluded = some_excluded();
  const at::Tensor query_QD = search.queries(recipients);
  EXPECT_TRUE(at::equal(query_QD, planted.all_ND.narrow(0, 0, kUsers)));
  for (const std::int64_t count : {std::int64_t{1}, std::int64_t{10}, kItems}) {
    const auto best = search.best(query_QD, spans(excluded), count);
    EXPECT_EQ(best.size(), static_cast<std::size_t>(kUsers));
    for (std::int64_t user = 0; user < kUsers; ++user) {
      const auto all = planted.sorted(query_QD[user], excluded[user]);
      const auto expected = std::min<std::size_t>(all.size(), static_cast<std::size_t>(count));
      EXPECT_EQ(best[user].size(), expected) << user;
      for (std::size_t i = 0; i < std::min(expected, best[user].size()); ++i) {
        EXPECT_EQ(best[user][i].item, all[i].item) << user << " place " << i;
        EXPECT_EQ(best[user][i].score, all[i].score) << user << " place " << i;
      }
    }
  }
}

TEST_P(CandidatesTest, PlacesEqualASortOfEverything) {
  const Planted planted(GetParam().first, GetParam().second);
  const CandidateSearch search = planted.search();
  const auto excluded = some_excluded();
  const at::Tensor query_QD = search.queries(all_users());
  std::vector<std::vector<std::int64_t>> items(kUsers);
  SplitMix64 random(2);
  for (std::int64_t user = 0; user + 1 < kUsers; ++user) {
    std::set<std::int64_t> chosen;
    for (int i = 0; i < 9; ++i) chosen.insert(static_cast<std::int64_t>(random.below(kItems)));
    for (const std::int64_t item : chosen)
      if (std::find(excluded[user].begin(), excluded[user].end(), item) == excluded[user].end())
        items[user].push_back(item);
    std::reverse(items[user].begin(), items[user].end());  // in no order of their own
  }
  items[3].clear();
  const auto places = search.places(query_QD, spans(excluded), items);
  EXPECT_EQ(places.size(), items.size());
  for (std::int64_t user = 0; user < kUsers; ++user) {
    const auto all = planted.sorted(query_QD[user], excluded[user]);
    EXPECT_EQ(places[user].size(), items[user].size());
    for (std::size_t i = 0; i < std::min(items[user].size(), places[user].size()); ++i) {
      const auto place = places[user][i];
      const bool inside = place >= 0 && place < std::ssize(all);
      EXPECT_TRUE(inside) << place;
      if (!inside) continue;
      EXPECT_EQ(all[place].item, items[user][i]) << "user " << user;
    }
  }
}

// Fine values, values that tie often, and fp64.
INSTANTIATE_TEST_SUITE_P(Values, CandidatesTest,
                         ::testing::Values(std::pair(at::kFloat, 1e6), std::pair(at::kFloat, 1.0),
                                           std::pair(at::kDouble, 1e6)));

TEST(Candidates, ThreadsDoNotMatter) {
  const Planted planted(at::kFloat, 1.0);
  const CandidateSearch search = planted.search();
  const auto excluded = some_excluded();
  const at::Tensor query_QD = search.queries(all_users());
  const int before = at::get_num_threads();
  const auto one = search.best(query_QD, spans(excluded), 20);
  at::set_num_threads(3);
  const auto three = search.best(query_QD, spans(excluded), 20);
  at::set_num_threads(before);
  for (std::int64_t user = 0; user < kUsers; ++user)
    for (std::size_t i = 0; i < one[user].size(); ++i)
      EXPECT_EQ(one[user][i].item, three[user][i].item);
}

/// Who has no E is looked for with the mean of the liked items that have one.
TEST(Candidates, UnknownUsersAreTheirLikedItems) {
  const Planted planted(at::kDouble, 1e6);
  const auto row = [&](std::int64_t item) { return planted.all_ND[kUsers + item]; };
  const std::vector<std::int64_t> liked{5, 1, 20};  // the second has no E
  const std::vector<std::int64_t> nothing{1};
  const std::vector<Recipient> recipients{
      {kUnknownNode, liked}, {4, liked}, {2, liked}, {9, {}}, {kUnknownNode, nothing}};
  for (const bool bias : {false, true}) {
    const at::Tensor query_QD = planted.search(bias).queries(recipients);
    at::Tensor mean = (row(5) + row(20)) / 2, zero = at::zeros_like(mean);
    if (bias) {
      for (at::Tensor* cold : {&mean, &zero}) {
        (*cold)[kWidth - 2] = 0;
        (*cold)[kWidth - 1] = 1;
      }
    }
    EXPECT_TRUE(at::equal(query_QD[0], mean));
    EXPECT_TRUE(at::equal(query_QD[1], mean));
    EXPECT_TRUE(at::equal(query_QD[2], planted.all_ND[2]));
    EXPECT_TRUE(at::equal(query_QD[3], zero));
    EXPECT_TRUE(at::equal(query_QD[4], zero));
  }
}

TEST(Candidates, NobodyAsks) {
  const Planted planted(at::kFloat, 1e6);
  const CandidateSearch search = planted.search();
  EXPECT_TRUE(search.best(search.queries({}), {}, 5).empty());
  EXPECT_TRUE(search.places(search.queries({}), {}, {}).empty());
}

/// Embeddings whose product overflows to inf − inf.
TEST(Candidates, ScoresThatAreNoNumbersAreRefusedOnEveryRank) {
  Planted planted(at::kFloat, 1e6);
  planted.all_ND[0].fill_(3e38);
  planted.all_ND[kUsers + 11].fill_(3e38);
  planted.all_ND[kUsers + 11].narrow(0, 0, kWidth / 2).neg_();
  planted.own_nD = planted.all_ND.index_select(0, planted.owned);
  const CandidateSearch search = planted.search();
  const at::Tensor query_QD = search.queries(std::vector<Recipient>{{0, {}}});
  const std::vector<std::span<const std::int32_t>> none(1);
  EXPECT_THROW(search.best(query_QD, none, 3), DataError);
  EXPECT_THROW(search.places(query_QD, none, std::vector<std::vector<std::int64_t>>{{2}}),
               DataError);
  EXPECT_THROW(search.places(query_QD, none, std::vector<std::vector<std::int64_t>>{{11}}),
               DataError);
}

/// The same bits as the scores of evaluate --pretrained.
TEST(Candidates, ScoresAreThoseOfEvaluate) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  const Dataset& dataset = *workspace.dataset;
  const EmbeddingTable table = tiny_embeddings(workspace, 10, at::kFloat);
  const CandidateSearch search(world(), *workspace.map, workspace.shard->owned(), dataset.users(),
                               table.weight_nD, false);
  const std::vector<std::int64_t> rows = dataset.sample(Split::train, 0, 1);
  const auto scores = score_by_embeddings(world(), dataset, *workspace.map, table, rows);
  std::vector<Recipient> recipients;
  for (std::int64_t user = 0; user < dataset.users(); ++user) recipients.push_back({user, {}});
  const std::vector<std::span<const std::int32_t>> none(recipients.size());
  const auto lists = search.best(search.queries(recipients), none, dataset.items());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& list = lists[dataset.user()[rows[i]]];
    const auto at = std::find_if(list.begin(), list.end(), [&](const Candidate& candidate) {
      return candidate.item == dataset.item()[rows[i]];
    });
    EXPECT_NE(at, list.end());
    if (at == list.end()) continue;
    EXPECT_EQ(at->score, scores[i]);
  }
}

TEST(SeenItems, AreTheRowsAskedForOfTheItemsOwnedHere) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  const Dataset& dataset = *workspace.dataset;
  const SeenItems seen(dataset, *workspace.map, world().rank(),
                       [&](std::int64_t row) { return dataset.split(row) == Split::train; });
  std::int64_t total = 0;
  for (std::int64_t user = 0; user < dataset.users(); ++user) {
    std::set<std::int32_t> expected;
    for (const std::int64_t row : dataset.rows_of(Split::train))
      if (dataset.user()[row] == user &&
          workspace.map->owner(dataset.item_node(row)) == world().rank())
        expected.insert(static_cast<std::int32_t>(dataset.item()[row]));
    const auto items = seen.of(user);
    EXPECT_EQ(std::vector<std::int32_t>(items.begin(), items.end()),
              std::vector<std::int32_t>(expected.begin(), expected.end()));
    total += std::ssize(items);
  }
  const at::Tensor sum = at::full({1}, total, at::kLong);
  world().all_reduce(sum, ReduceOp::sum, Traffic::control).wait();
  EXPECT_EQ(sum.item<std::int64_t>(), dataset.rows(Split::train));
  EXPECT_TRUE(SeenItems().of(3).empty());
}

}  // namespace
}  // namespace graphlora::test
