#include "train/evaluate.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/devices.hpp"
#include "support/tiny_world.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

/// Rows of all users in no order, some of them twice.
std::vector<std::int64_t> mixed_rows(const Dataset& dataset) {
  std::vector<std::int64_t> rows = dataset.sample(Split::train, 0, 3);
  std::vector<std::int64_t> order;
  const KeyedPermutation shuffled(rows.size(), 5);
  for (std::size_t i = 0; i < rows.size(); ++i) order.push_back(rows[shuffled(i)]);
  order.insert(order.end(), rows.begin(), rows.begin() + 5);
  return order;
}

class ScoreRows : public OnSetting {};

/// Shared beginnings change no score and no place in the result, on any grid, however few tokens a
/// pack may hold.
TEST_P(ScoreRows, SharedPrefixesChangeNoScore) {
  const SharedDataset shared;
  const int ranks = world().size();
  for (const char* precision : {"fp64", "fp32"}) {
    for (const int t : {1, 2, 3}) {
      if (ranks % t != 0) continue;
      const Workspace workspace(job(), shared.path(), PartitionConfig{}, Reuse::same_cut, t);
      ModelConfig config = tiny_model_config();
      config.precision = precision;
      const bool wide = config.precision == "fp64";
      Recommender model(job(), workspace, kTinyLlama, config,
                        tiny_embeddings(workspace, kWidth, wide ? at::kDouble : at::kFloat), false);
      model.initialize_from_data();
      if (wide) randomize_b(model);
      const auto rows = mixed_rows(*workspace.dataset);
      const auto plain = score_rows(model, rows, 400, "scoring", false, false);
      ASSERT_EQ(plain.size(), rows.size());
      for (const std::int64_t budget : {1, 400, 1 << 20}) {
        const auto together = score_rows(model, rows, budget, "scoring");
        ASSERT_EQ(together.size(), rows.size());
        // Results are fp32, whatever they were computed in.
        for (std::size_t i = 0; i < rows.size(); ++i)
          EXPECT_NEAR(together[i], plain[i], wide ? 1e-6 : 1e-5) << i << ", budget " << budget;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Over, ScoreRows, kEverySetting, name_of_setting);

}  // namespace
}  // namespace graphlora::test
