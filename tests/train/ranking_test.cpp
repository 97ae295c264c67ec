// Ranking metrics by hand and, over a whole dataset, by the plainest way to compute them. Against
// scikit-learn: tests/golden/check_ranking.py.
#include "train/ranking.hpp"

#include <gtest/gtest.h>

#include <set>

#include "core/error.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

double log2_discount(int rank) { return 1 / std::log2(rank + 1.0); }

TEST(ListQuality, OneUserByHand) {
  ListQuality quality(3);
  // Liked items at ranks 2, 3 and 7, and a fourth that the list doesn't hold.
  quality.add(std::vector<std::int64_t>{1, 2, 6}, 4);
  EXPECT_NEAR(*quality.recall(), 2.0 / 4, 1e-15);
  EXPECT_NEAR(*quality.ndcg(),
              (log2_discount(2) + log2_discount(3)) /
                  (log2_discount(1) + log2_discount(2) + log2_discount(3)),
              1e-15);
  EXPECT_NEAR(*quality.mrr(), 1.0 / 2, 1e-15);
}

TEST(ListQuality, MeansOverUsersAndTheirLimits) {
  ListQuality quality(2);
  quality.add(std::vector<std::int64_t>{0, 1}, 2);  // perfect
  EXPECT_EQ(*quality.recall(), 1);
  EXPECT_EQ(*quality.ndcg(), 1);
  EXPECT_EQ(*quality.mrr(), 1);
  quality.add({}, 1);  // never found
  EXPECT_EQ(*quality.recall(), 0.5);
  EXPECT_EQ(*quality.ndcg(), 0.5);
  EXPECT_EQ(*quality.mrr(), 0.5);
  quality.add(std::vector<std::int64_t>{3, 2}, 2);  // behind K, in no order
  EXPECT_NEAR(*quality.recall(), 1.0 / 3, 1e-15);
  EXPECT_NEAR(*quality.mrr(), (1 + 1.0 / 3) / 3, 1e-15);
  EXPECT_EQ(quality.users(), 3);
}

TEST(ListQuality, UndefinedWithoutUsers) {
  EXPECT_EQ(ListQuality(5).to_json(),
            nlohmann::ordered_json::parse(R"({"users":0,"recall":null,"ndcg":null,"mrr":null})"));
}

/// What a test compares with: everything from the rows, one user and one item at a time.
struct Plain {
  std::int64_t users = 0;
  double recall = 0, ndcg = 0, mrr = 0, found = 0;
};

/// `order(user, items)`: the user's ranking of these items, as long as is asked for.
template <class Order>
Plain plain_metrics(const Dataset& dataset, Split split, std::int64_t k, const Order& order) {
  Plain plain;
  for (std::int64_t user = 0; user < dataset.users(); ++user) {
    std::set<std::int64_t> liked, met;
    std::int64_t first_time = std::numeric_limits<std::int64_t>::max();
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      if (dataset.user()[row] != user) continue;
      if (dataset.split(row) < split) met.insert(dataset.item()[row]);
      if (dataset.split(row) != split) continue;
      first_time = std::min(first_time, dataset.time()[row]);
      if (dataset.label()[row]) liked.insert(dataset.item()[row]);
    }
    if (liked.empty()) continue;
    std::vector<std::int64_t> items;
    for (std::int64_t item = 0; item < dataset.items(); ++item)
      if (!met.contains(item)) items.push_back(item);
    items = order(user, first_time, items);
    double hits = 0, gain = 0, ideal = 0, first = 0, found = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (!liked.contains(items[i])) continue;
      ++found;
      if (first == 0) first = 1.0 / static_cast<double>(i + 1);
      if (static_cast<std::int64_t>(i) >= k) continue;
      ++hits;
      gain += log2_discount(static_cast<int>(i) + 1);
    }
    for (std::int64_t i = 0; i < std::min<std::int64_t>(k, std::ssize(liked)); ++i)
      ideal += log2_discount(static_cast<int>(i) + 1);
    ++plain.users;
    plain.recall += hits / static_cast<double>(liked.size());
    plain.ndcg += gain / ideal;
    plain.mrr += first;
    plain.found += found / static_cast<double>(liked.size());
  }
  const auto users = static_cast<double>(plain.users);
  for (double* sum : {&plain.recall, &plain.ndcg, &plain.mrr, &plain.found}) *sum /= users;
  return plain;
}

void expect_equal(const ListQuality& quality, const Plain& plain, const char* what) {
  EXPECT_EQ(quality.users(), plain.users) << what;
  EXPECT_NEAR(quality.recall().value_or(-1), plain.recall, 1e-12) << what;
  EXPECT_NEAR(quality.ndcg().value_or(-1), plain.ndcg, 1e-12) << what;
  EXPECT_NEAR(quality.mrr().value_or(-1), plain.mrr, 1e-12) << what;
}

class RankingTest : public ::testing::TestWithParam<const char*> {
 protected:
  RankingTest()
      : shared_(GetParam(), 31, 19),
        workspace_(job(), shared_.path(), PartitionConfig{}),
        table_(tiny_embeddings(workspace_, kWidth, at::kDouble)),
        all_ND_(in_node_order(workspace_, table_.weight_nD)),
        search_(world(), *workspace_.map, workspace_.shard->owned(), workspace_.dataset->users(),
                table_.weight_nD, false) {}
  const Dataset& dataset() const { return *workspace_.dataset; }
  /// E·E of a user, of one without E by the mean of what he liked.
  std::vector<float> scores(std::int64_t user, std::int64_t first_time) const {
    at::Tensor query = all_ND_[user];
    if (!query.any().item<bool>()) {
      std::int64_t trained = 0;
      query = at::zeros_like(query);
      for (const std::int64_t item : dataset().liked_before(user, first_time, 1000)) {
        const at::Tensor row = all_ND_[dataset().users() + item];
        query = query + row;
        trained += row.any().item<bool>();
      }
      if (trained > 0) query = query / static_cast<double>(trained);
    }
    std::vector<float> result;
    for (std::int64_t item = 0; item < dataset().items(); ++item)
      result.push_back(
          (query * all_ND_[dataset().users() + item]).sum().to(at::kFloat).item<float>());
    return result;
  }
  static void sort_by(std::vector<std::int64_t>& items, const std::vector<float>& score) {
    std::stable_sort(items.begin(), items.end(),
                     [&](std::int64_t a, std::int64_t b) { return score[a] > score[b]; });
  }

  SharedDataset shared_;
  Workspace workspace_;
  EmbeddingTable table_;
  at::Tensor all_ND_;
  CandidateSearch search_;
};

TEST_P(RankingTest, ByEmbeddingsEqualsThePlainWay) {
  for (const Split split : {Split::valid, Split::test}) {
    for (const std::int64_t candidates : {0, 7}) {
      const auto result = evaluate_ranking(job(), workspace_, search_, nullptr,
                                           {.split = split, .k = 5, .candidates = candidates});
      const Plain plain =
          plain_metrics(dataset(), split, 5,
                        [&](std::int64_t user, std::int64_t time, std::vector<std::int64_t> items) {
                          sort_by(items, scores(user, time));
                          if (candidates > 0 && std::ssize(items) > candidates)
                            items.resize(static_cast<std::size_t>(candidates));
                          return items;
                        });
      EXPECT_GT(plain.users, 3);
      expect_equal(result.all, plain, to_string(split));
      EXPECT_EQ(result.warm.users() + result.cold.users(), result.all.users());
      const auto json = result.to_json();
      EXPECT_EQ(json["protocol"], candidates == 0 ? "full" : "candidates");
      EXPECT_EQ(json["scorer"], "embeddings");
      EXPECT_EQ(json.contains("candidate_recall"), candidates > 0);
      if (candidates == 0) continue;
      EXPECT_NEAR(json["candidate_recall"].get<double>(), plain.found, 1e-12);
    }
  }
}

TEST_P(RankingTest, ByTheLlmEqualsThePlainWay) {
  Recommender model(job(), workspace_, kTinyLlama, tiny_model_config(), table_, false);
  model.initialize_from_data();
  randomize_b(model);
  const auto result = evaluate_ranking(job(), workspace_, search_, &model,
                                       {.k = 4, .candidates = 6, .micro_batch = 300});
  model.anchors().begin_inference();
  const PromptBuilder& prompts = model.prompts();
  const auto order = [&](bool llm) {
    return [&, llm](std::int64_t user, std::int64_t time, std::vector<std::int64_t> items) {
      sort_by(items, scores(user, time));
      if (items.size() > 6) items.resize(6);
      if (!llm) return items;
      std::sort(items.begin(), items.end());
      // One prompt at a time.
      std::vector<float> score(static_cast<std::size_t>(dataset().items()));
      for (const std::int64_t item : items) {
        const Question question{user, item, dataset().liked_before(user, time, 1000)};
        score[item] =
            score_prompts(model,
                          {.size = 1,
                           .extent = [&](std::int64_t) { return prompts.extent(question, 0); },
                           .beginning = [](std::int64_t) { return std::uint64_t{0}; },
                           .build = [&](std::int64_t) { return prompts.build(question, 0); }},
                          300, {})[0];
      }
      sort_by(items, score);
      return items;
    };
  };
  const Plain plain = plain_metrics(dataset(), Split::test, 4, order(true)),
              by_e = plain_metrics(dataset(), Split::test, 4, order(false));
  expect_equal(result.all, plain, "llm");
  expect_equal(*result.by_e, by_e, "by E");
  EXPECT_NE(plain.ndcg, by_e.ndcg);  // else the LLM's order goes untested
  EXPECT_NEAR(*result.found, plain.found, 1e-12);
  EXPECT_EQ(result.to_json()["scorer"], "llm");
  EXPECT_EQ(result.to_json()["users"], plain.users);
}

/// The plain way tells one row of E from another: else the tests above would pass with any.
TEST_P(RankingTest, PermutedRowsFail) {
  const RankingConfig config{.k = 5};
  const auto right = evaluate_ranking(job(), workspace_, search_, nullptr, config);
  const at::Tensor moved =
      all_ND_.roll(1, 0).index_select(0, workspace_.shard->owned()).contiguous();
  const CandidateSearch wrong(world(), *workspace_.map, workspace_.shard->owned(),
                              dataset().users(), moved, false);
  EXPECT_NE(*evaluate_ranking(job(), workspace_, wrong, nullptr, config).all.ndcg(),
            *right.all.ndcg());
}

TEST_P(RankingTest, ASampleOfUsers) {
  const auto of = [&](std::int64_t users, std::uint64_t seed) {
    return evaluate_ranking(job(), workspace_, search_, nullptr,
                            {.k = 5, .users = users, .sample_seed = seed})
        .all;
  };
  EXPECT_EQ(of(3, 1).users(), 3);
  EXPECT_EQ(of(3, 1).mrr(), of(3, 1).mrr());
  EXPECT_EQ(of(1000, 1).to_json(), of(0, 2).to_json());
  std::set<double> different;
  for (std::uint64_t seed = 0; seed < 8; ++seed) different.insert(*of(3, seed).mrr());
  EXPECT_GT(different.size(), 1U);
}

TEST_P(RankingTest, BeyondTheCatalogue) {
  EXPECT_THROW(check_ranking({.k = dataset().items() + 1}, dataset()), ConfigError);
  EXPECT_THROW(check_ranking({.k = 2, .candidates = dataset().items() + 1}, dataset()),
               ConfigError);
  EXPECT_NO_THROW(
      check_ranking({.k = dataset().items(), .candidates = dataset().items()}, dataset()));
}

INSTANTIATE_TEST_SUITE_P(Splits, RankingTest, ::testing::Values("user-time", "time"),
                         [](const auto& info) {
                           return std::string(info.param) == "time" ? "Time" : "UserTime";
                         });

}  // namespace
}  // namespace graphlora::test
