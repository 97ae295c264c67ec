// Ranked lists on any grid equal those of one process; unknown users see what training shows them.
#include "train/recommend.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "core/error.hpp"
#include "support/devices.hpp"
#include "train/seen_items.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

constexpr std::int64_t kNow = std::numeric_limits<std::int64_t>::max();

struct Lists {
  std::vector<std::vector<RankedItem>> of;
};

/// For every user and one who is not in the data, by a model of randomized weights.
Lists recommend(Job& on, const std::filesystem::path& data, int tensor_parallel) {
  const Workspace workspace(on, data, PartitionConfig{}, Reuse::same_cut, tensor_parallel);
  const Dataset& dataset = *workspace.dataset;
  Recommender model(on, workspace, kTinyLlama, tiny_model_config(),
                    tiny_embeddings(workspace, kWidth, at::kDouble), false);
  model.initialize_from_data();
  randomize_b(model);
  const CandidateSearch search(workspace.world(), *workspace.map, workspace.shard->owned(),
                               dataset.users(), model.table().weight_nD, false);
  RecommendationEngine engine(workspace.world(), dataset, search, &model,
                              {.candidates = 8, .micro_batch = 300});
  const SeenItems seen(dataset, *workspace.map, workspace.grid->rank(),
                       [&](std::int64_t row) { return dataset.split(row) == Split::train; });
  const std::vector<std::int64_t> liked{3, 11};
  const std::vector<std::int32_t> liked_sorted{3, 11};
  std::vector<Recipient> recipients;
  std::vector<std::span<const std::int32_t>> excluded;
  for (std::int64_t user = 0; user < dataset.users(); ++user) {
    recipients.push_back({user, dataset.liked_before(user, kNow, kNow)});
    excluded.push_back(seen.of(user));
  }
  recipients.push_back({kUnknownNode, liked});
  excluded.push_back(liked_sorted);
  Lists lists{engine.rank(recipients, excluded, {})};
  std::int64_t candidates = 0;
  for (const auto& list : lists.of) candidates += std::ssize(list);
  EXPECT_EQ(engine.seconds().candidates, candidates);
  EXPECT_GT(engine.seconds().reranking, 0);
  EXPECT_GE(engine.batch(), 1);
  return lists;
}

class Recommend : public OnSetting {};

TEST_P(Recommend, EveryGridGivesTheListsOfOneProcess) {
  const SharedDataset shared("user-time", 23, 29);
  Job alone(std::shared_ptr<Communicator>(world().split(world().rank(), 0)));
  Lists one;
  {
    const TemporaryDirectory own;
    std::filesystem::copy(shared.path(), own / "dataset", std::filesystem::copy_options::recursive);
    one = recommend(alone, own / "dataset", 1);
  }
  world().barrier();
  bool reordered = false;
  for (const int tensor_parallel : {1, 2, 3}) {
    if (world().size() % tensor_parallel != 0) continue;
    const Lists many = recommend(job(), shared.path(), tensor_parallel);
    EXPECT_EQ(many.of.size(), one.of.size());
    for (std::size_t q = 0; q < std::min(many.of.size(), one.of.size()); ++q) {
      EXPECT_EQ(many.of[q].size(), one.of[q].size()) << q;
      for (std::size_t i = 0; i < std::min(many.of[q].size(), one.of[q].size()); ++i) {
        const RankedItem &a = many.of[q][i], &b = one.of[q][i];
        EXPECT_EQ(a.candidate.item, b.candidate.item) << q << " place " << i;
        EXPECT_EQ(a.candidate.score, b.candidate.score) << q << " place " << i;
        EXPECT_EQ(a.retrieval_rank, b.retrieval_rank) << q << " place " << i;
        EXPECT_NEAR(a.llm_score, b.llm_score, 1e-6) << q << " place " << i;
        reordered |= a.retrieval_rank != static_cast<std::int64_t>(i) + 1;
      }
    }
  }
  EXPECT_TRUE(reordered);  // the LLM ranks, not E
}

INSTANTIATE_TEST_SUITE_P(Over, Recommend, kEverySetting, name_of_setting);

class Recommended : public ::testing::Test {
 protected:
  Recommended()
      : workspace_(job(), shared_.path(), PartitionConfig{}),
        model_(job(), workspace_, kTinyLlama, tiny_model_config(),
               tiny_embeddings(workspace_, kWidth, at::kDouble), false) {
    model_.initialize_from_data();
    randomize_b(model_);
    model_.anchors().begin_inference();
  }
  std::vector<float> scores(std::span<const Question> questions) {
    const PromptBuilder& prompts = model_.prompts();
    return score_prompts(
        model_,
        {.size = std::ssize(questions),
         .extent = [&](std::int64_t i) { return prompts.extent(questions[i], 0); },
         .beginning =
             [&](std::int64_t i) { return static_cast<std::uint64_t>(questions[i].user_node); },
         .build = [&](std::int64_t i) { return prompts.build(questions[i], 0); }},
        300, {});
  }
  SharedDataset shared_;
  Workspace workspace_;
  Recommender model_;
};

/// The question of a test row is scored as evaluation scores the row.
TEST_F(Recommended, QuestionsScoreAsRows) {
  const Dataset& dataset = *workspace_.dataset;
  const auto rows = dataset.sample(Split::test, 15, 2);
  std::vector<Question> questions;
  for (const std::int64_t row : rows)
    questions.push_back(
        {dataset.user_node(row), dataset.item()[row],
         dataset.liked_before(dataset.user()[row], dataset.time()[row], dataset.rows())});
  const auto asked = scores(questions), as_rows = score_rows(model_, rows, 300, "rows");
  EXPECT_EQ(asked, as_rows);
  EXPECT_GT(std::set<float>(asked.begin(), asked.end()).size(), 5U);
  // Another user or another item is another score.
  std::rotate(questions.begin(), questions.begin() + 1, questions.end());
  EXPECT_NE(scores(questions), as_rows);
}

/// Who is not in the data reads like a user whose E and z training has set to zero.
TEST_F(Recommended, UnknownUsersAreThoseOfTraining) {
  const Dataset& dataset = *workspace_.dataset;
  // Both ends of an edge.
  const auto rows = dataset.rows_of(Split::train);
  const auto liked = std::find_if(rows.begin(), rows.end(),
                                  [&](std::int64_t row) { return dataset.label()[row] != 0; });
  ASSERT_NE(liked, rows.end());
  const std::int64_t item_node = dataset.item_node(*liked), user_node = dataset.user_node(*liked),
                     item = dataset.item()[*liked];
  const auto inferred =
      model_.anchors().infer(std::vector<std::int64_t>{kUnknownNode, item_node, user_node});
  const AnchorRows trained =
      model_.anchors().forward(workspace_.shard->cut().full_view(),
                               std::vector<std::int64_t>{user_node, item_node, user_node},
                               std::vector<std::uint8_t>{1, 0, 0});
  EXPECT_LT(relative_difference(inferred.z_Mr, trained.z_Mr.detach()), 1e-12);
  EXPECT_LT(relative_difference(inferred.embedding_MH, trained.embedding_MH.detach()), 1e-12);
  EXPECT_EQ(inferred.z_Mr[0].abs().max().item<double>(), 0);
  EXPECT_GT(inferred.z_Mr[1].abs().max().item<double>(), 0);
  const std::vector<std::int64_t> history{2, 3};
  const auto two =
      scores(std::vector<Question>{{kUnknownNode, item, history}, {user_node, item, history}});
  EXPECT_NE(two[0], two[1]);
}

/// Weights that have diverged end in an error on every rank, not in an order of NaN.
TEST_F(Recommended, ScoresThatAreNoNumbersAreRefused) {
  const at::NoGradGuard guard;
  for (const Parameter& p : model_.parameters()) at::Tensor(p.value).fill_(NAN);
  const Dataset& dataset = *workspace_.dataset;
  const CandidateSearch search(world(), *workspace_.map, workspace_.shard->owned(), dataset.users(),
                               model_.table().weight_nD, false);
  RecommendationEngine engine(world(), dataset, search, &model_, {.candidates = 3});
  const std::vector<std::span<const std::int32_t>> none(1);
  EXPECT_THROW(engine.rank(std::vector<Recipient>{{2, {}}}, none, {}), DataError);
}

TEST_F(Recommended, WhoHasMetEverythingGetsNothing) {
  const Dataset& dataset = *workspace_.dataset;
  const CandidateSearch search(world(), *workspace_.map, workspace_.shard->owned(), dataset.users(),
                               model_.table().weight_nD, false);
  RecommendationEngine engine(world(), dataset, search, &model_, {.candidates = 3});
  std::vector<std::int32_t> all(static_cast<std::size_t>(dataset.items()));
  std::iota(all.begin(), all.end(), 0);
  const std::vector<std::span<const std::int32_t>> excluded{all, {}};
  const auto lists = engine.rank(std::vector<Recipient>{{2, {}}, {3, {}}}, excluded, {});
  EXPECT_TRUE(lists[0].empty());
  EXPECT_EQ(lists[1].size(), 3U);
}

}  // namespace
}  // namespace graphlora::test
