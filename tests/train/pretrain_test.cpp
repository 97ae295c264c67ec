// Pretraining against autograd, and any number of ranks against one.
#include "train/pretrain.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "support/tiny_world.hpp"
#include "train/metrics.hpp"

namespace graphlora::test {
namespace {

/// Who owns which node: by hash; rank 1 of several has nothing; or the last rank has everything.
enum class Owners { hashed, last };

at::Tensor owned_nodes(const Dataset& dataset, Owners owners, const Communicator& communicator) {
  const int ranks = communicator.size();
  std::vector<std::int64_t> nodes;
  for (std::int64_t i = 0; i < dataset.nodes(); ++i) {
    const std::int64_t node = dataset.nodes() - 1 - i;
    int owner = static_cast<int>(splitmix64(static_cast<std::uint64_t>(node)) % ranks);
    if (owners == Owners::last || owner == 1) owner = ranks - 1;
    if (owner == communicator.rank()) nodes.push_back(node);
  }
  return at::tensor(nodes, at::kLong);
}

PretrainConfig tiny_config() {
  PretrainConfig config;
  config.width = 12;
  config.epochs = 4;
  config.patience = 100;
  config.batch_size = 13;
  config.lr = 0.03;
  config.weight_decay = 1e-3;
  config.init_std = 0.3;
  config.precision = "fp64";
  return config;
}

struct Outcome {
  PretrainResult result;
  at::Tensor weight_ND;
  std::vector<float> scores;
};

/// Pretrains on the ranks of `job` and collects the table in node order. Collective.
Outcome run(Job& job, const std::filesystem::path& data, Owners owners,
            const PretrainConfig& config) {
  const Dataset dataset(data);
  Communicator& communicator = *job.world();
  const at::Tensor owned = owned_nodes(dataset, owners, communicator);
  const NodeMap map(communicator, owned, dataset.nodes());
  Outcome outcome;
  outcome.result = pretrain(job, dataset, owned, map, config);
  const at::Tensor& weight = outcome.result.table.weight_nD;
  const auto [ids, id_counts] = communicator.all_gather_varying(owned, Traffic::control);
  const auto [rows, counts] = communicator.all_gather_varying(weight, Traffic::control);
  outcome.weight_ND = at::empty_like(rows).index_copy_(0, ids, rows);
  outcome.scores = score_by_embeddings(communicator, dataset, map, outcome.result.table,
                                       dataset.sample(Split::test, 0, 1));
  return outcome;
}

Outcome run_alone(const std::filesystem::path& data, const PretrainConfig& config) {
  Job alone(std::shared_ptr<Communicator>(world().split(world().rank(), 0)));
  return run(alone, data, Owners::hashed, config);
}

/// Late rows are all liked, so that validation has one label only.
void write_one_label_dataset(const std::filesystem::path& data, int rows = 60, int users = 7,
                             int items = 9) {
  RawRatings raw;
  for (int i = 0; i < rows; ++i) {
    raw.add("u" + std::to_string(i % users), "m" + std::to_string(i % items),
            i % 2 == 0 || i > 6 * rows / 10 ? 5 : 1, i);
  }
  write_dataset(data, std::move(raw), {.split = {.rule = "time", .valid = 0.1, .test = 0.1}});
}

class Pretrain : public ::testing::Test {
 protected:
  Pretrain() : directory_(world()), data_(directory_.path() / "dataset") {
    job().agree([&] {
      if (world().rank() == 0) write_tiny_dataset(data_, 23, 17, "user-time");
    });
  }
  SharedDirectory directory_;
  std::filesystem::path data_;
};

TEST_F(Pretrain, SameBitsAtAnyNumberOfRanks) {
  for (const bool bias : {true, false}) {
    for (const std::string precision : {"fp64", "fp32"}) {
      for (const std::int64_t batch_size : {1, 13, 1000}) {
        PretrainConfig config = tiny_config();
        config.bias = bias;
        config.precision = precision;
        config.batch_size = batch_size;
        const Outcome one = run_alone(data_, config);
        for (const Owners owners : {Owners::hashed, Owners::last}) {
          const Outcome many = run(job(), data_, owners, config);
          EXPECT_TRUE(at::equal(many.weight_ND, one.weight_ND))
              << precision << ", batches of " << batch_size;
          EXPECT_EQ(many.scores, one.scores);
          EXPECT_EQ(many.result.best_epoch, one.result.best_epoch);
          EXPECT_EQ(many.result.valid_auc, one.result.valid_auc);
          EXPECT_EQ(many.result.train_auc, one.result.train_auc);
          ASSERT_EQ(many.result.epochs.size(), one.result.epochs.size());
          for (std::size_t e = 0; e < one.result.epochs.size(); ++e)
            EXPECT_NEAR(many.result.epochs[e].loss, one.result.epochs[e].loss, 1e-12);
        }
      }
    }
  }
}

/// Against torch, with all rows of `data` as one batch. Collective.
void expect_autograd_and_adam(const std::filesystem::path& data) {
  const Dataset dataset(data);
  const std::vector<std::int64_t> rows = dataset.rows_of(Split::train);
  std::vector<std::int64_t> users, items;
  std::vector<double> labels;
  at::Tensor trained = at::zeros({dataset.nodes(), 1}, at::kDouble);
  for (const std::int64_t row : rows) {
    users.push_back(dataset.user_node(row));
    items.push_back(dataset.item_node(row));
    labels.push_back(dataset.label()[row]);
    trained[dataset.user_node(row)] = 1;
    trained[dataset.item_node(row)] = 1;
  }
  const at::Tensor user = at::tensor(users, at::kLong), item = at::tensor(items, at::kLong);
  const at::Tensor label = at::tensor(labels, at::kDouble);
  for (const bool bias : {true, false}) {
    PretrainConfig config = tiny_config();
    config.bias = bias;
    // Whole epochs as batches: their order is no matter.
    config.batch_size = static_cast<std::int64_t>(rows.size());
    config.lr = 0;
    config.epochs = 1;
    at::Tensor weight = run_alone(data, config).weight_ND;
    config.lr = 0.03;
    config.epochs = 5;
    const Outcome outcome = run(job(), data, Owners::hashed, config);

    at::Tensor moves = trained.expand({dataset.nodes(), config.width}).clone();
    if (bias) {
      moves.narrow(0, 0, dataset.users()).select(1, config.width - 1).zero_();
      moves.narrow(0, dataset.users(), dataset.items()).select(1, config.width - 2).zero_();
    }
    at::Tensor mean = at::zeros_like(weight), square = at::zeros_like(weight);
    for (std::int64_t step = 1; step <= outcome.result.best_epoch; ++step) {
      at::Tensor leaf = weight.clone().requires_grad_();
      const at::Tensor score = (leaf.index_select(0, user) * leaf.index_select(0, item)).sum(1);
      const at::Tensor bce = at::binary_cross_entropy_with_logits(score, label);
      EXPECT_NEAR(bce.item<double>(), outcome.result.epochs[step - 1].loss, 1e-12);
      // Beyond 4096 rows the loss counts by as much a row.
      const double factor = std::max(1.0, static_cast<double>(rows.size()) / 4096);
      const at::Tensor gradient = torch::autograd::grad({bce}, {leaf})[0] * factor;
      const at::Tensor g = (gradient + config.weight_decay * weight) * moves;
      mean = 0.9 * mean + 0.1 * g;
      square = 0.999 * square + 0.001 * g * g;
      const at::Tensor m = mean / (1 - std::pow(0.9, step));
      const at::Tensor v = square / (1 - std::pow(0.999, step));
      weight = weight - config.lr * m / (v.sqrt() + 1e-8);
    }
    EXPECT_LT(relative_difference(outcome.weight_ND, weight), 1e-10);
    EXPECT_EQ(outcome.result.best_epoch, 5);
  }
}

TEST_F(Pretrain, EqualsAutogradAndAdam) {
  // Without a validation AUC the table is that of the last epoch.
  for (const int rows : {60, 6000}) {
    const auto data = directory_.path() / (rows == 60 ? "one-label" : "one-label-long");
    job().agree([&] {
      if (world().rank() != 0) return;
      if (rows == 60) write_one_label_dataset(data);
      if (rows > 60) write_one_label_dataset(data, rows, 89, 97);
    });
    expect_autograd_and_adam(data);
  }
}

TEST_F(Pretrain, SameBitsOnAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  const auto data = directory_.path() / "one-label";
  job().agree([&] {
    if (world().rank() == 0) write_one_label_dataset(data, 6000, 89, 97);
  });
  PretrainConfig config = tiny_config();
  config.epochs = 2;
  for (const std::int64_t batch_size : {700, 0}) {
    config.batch_size = batch_size;
    std::vector<at::Tensor> tables;
    for (const int count : {1, 2, 3}) {
      at::set_num_threads(count);
      const Outcome outcome = run(job(), data, Owners::hashed, config);
      EXPECT_EQ(outcome.result.batch_size, batch_size > 0 ? batch_size : 4096);
      tables.push_back(outcome.weight_ND);
    }
    EXPECT_TRUE(at::equal(tables[0], tables[1]));
    EXPECT_TRUE(at::equal(tables[0], tables[2]));
  }
  at::set_num_threads(threads);
}

TEST_F(Pretrain, RowsOfTheBatchAloneMove) {
  const Dataset dataset(data_);
  PretrainConfig config = tiny_config();
  config.epochs = 1;
  config.batch_size = 1;
  config.lr = 0;
  const at::Tensor before = run_alone(data_, config).weight_ND;
  config.lr = 1e-3;
  const at::Tensor after = run_alone(data_, config).weight_ND;
  // Adam moves every element by about lr a step at first: one for each row the node is in.
  std::vector<std::int64_t> rows_of_node(dataset.nodes(), 0);
  for (const std::int64_t row : dataset.rows_of(Split::train)) {
    ++rows_of_node[dataset.user_node(row)];
    ++rows_of_node[dataset.item_node(row)];
  }
  for (std::int64_t node = 0; node < dataset.nodes(); ++node) {
    const double moved = (after[node] - before[node]).abs().max().item<double>();
    EXPECT_LE(moved, 1.5e-3 * rows_of_node[node]) << node;
    EXPECT_EQ(moved > 0, rows_of_node[node] > 0) << node;
  }
}

TEST_F(Pretrain, BiasColumnsAndRowsWithoutTrainingInteractions) {
  const auto data = directory_.path() / "by-time";
  job().agree([&] {
    if (world().rank() == 0) write_tiny_dataset(data, 23, 17, "time");
  });
  const Dataset dataset(data);
  std::vector<bool> trained(dataset.nodes(), false);
  for (const std::int64_t row : dataset.rows_of(Split::train))
    trained[dataset.user_node(row)] = trained[dataset.item_node(row)] = true;
  const at::Tensor weight = run(job(), data, Owners::hashed, tiny_config()).weight_ND;
  std::int64_t untrained = 0;
  for (std::int64_t node = 0; node < dataset.nodes(); ++node) {
    const bool is_user = node < dataset.users();
    if (!trained[node]) {
      ++untrained;
      EXPECT_EQ(weight[node].abs().sum().item<double>(), 0) << node;
      continue;
    }
    EXPECT_EQ(weight[node][is_user ? 11 : 10].item<double>(), 1) << node;
    EXPECT_NE(weight[node][is_user ? 10 : 11].item<double>(), 0) << node;
  }
  EXPECT_GT(untrained, 0) << "the dataset has no cold node: nothing was tested";
}

TEST_F(Pretrain, StopsEarlyAndKeepsTheBestEpoch) {
  PretrainConfig config = tiny_config();
  config.epochs = 200;
  config.patience = 3;
  const Outcome outcome = run(job(), data_, Owners::hashed, config);
  const PretrainResult& result = outcome.result;
  ASSERT_TRUE(result.valid_auc.has_value());
  EXPECT_EQ(static_cast<std::int64_t>(result.epochs.size()), result.best_epoch + 3);
  for (const PretrainEpoch& epoch : result.epochs) EXPECT_LE(*epoch.valid_auc, *result.valid_auc);
  EXPECT_EQ(*result.epochs[result.best_epoch - 1].valid_auc, *result.valid_auc);
  // The table is that epoch's: a run that ends there gives the same.
  config.epochs = result.best_epoch;
  EXPECT_TRUE(at::equal(run_alone(data_, config).weight_ND, outcome.weight_ND));
}

TEST_F(Pretrain, ScoresAreDotProducts) {
  const Dataset dataset(data_);
  const at::Tensor owned = owned_nodes(dataset, Owners::hashed, world());
  const NodeMap map(world(), owned, dataset.nodes());
  at::Generator random = at::make_generator<at::CPUGeneratorImpl>(3);
  const at::Tensor all = at::randn({dataset.nodes(), 37}, random, at::kDouble);
  // More rows than are scored at once, with repeats.
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < 70'000; ++i) rows.push_back((i * 7) % dataset.rows());
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    EmbeddingTable table;
    table.weight_nD = all.to(dtype).index_select(0, owned);
    const std::vector<float> scores = score_by_embeddings(world(), dataset, map, table, rows);
    ASSERT_EQ(scores.size(), rows.size());
    double largest = 0;
    for (std::size_t i = 0; i < 500; ++i) {
      const std::size_t k = i * 139;
      const double expected =
          (all[dataset.user_node(rows[k])] * all[dataset.item_node(rows[k])]).sum().item<double>();
      largest = std::max(largest, std::abs(scores[k] - expected));
    }
    EXPECT_LT(largest, 3e-5);
  }
  EXPECT_TRUE(
      score_by_embeddings(world(), dataset, map, {at::zeros({owned.size(0), 2}), {}, {}}, {})
          .empty());
}

TEST_F(Pretrain, WhatTravelsIsCountedAsPretraining) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  world().reset_counters();
  PretrainConfig config = tiny_config();
  config.epochs = 1;
  run(job(), data_, Owners::hashed, config);
  EXPECT_EQ(world().counter(Traffic::parameters).bytes, 0);
  const std::int64_t bytes = world().counter(Traffic::pretrain).bytes;
  world().reset_counters();
  run(job(), data_, Owners::last, config);
  // With one owner of everything only scalars travel.
  EXPECT_LE(world().counter(Traffic::pretrain).bytes, 1000);
  const std::vector<std::int64_t> all = world().all_gather(bytes, Traffic::control);
  EXPECT_GT(*std::max_element(all.begin(), all.end()), 1000);
}

TEST_F(Pretrain, RefusesWhatCannotWork) {
  PretrainConfig config = tiny_config();
  config.width = 2;
  EXPECT_THROW(run(job(), data_, Owners::hashed, config), AgreedError);
  config = tiny_config();
  config.lr = 1e300;
  EXPECT_THROW(run(job(), data_, Owners::hashed, config), AgreedError);
  config = tiny_config();
  config.precision = "fp8";
  EXPECT_THROW(run(job(), data_, Owners::hashed, config), AgreedError);
}

TEST(PretrainWithoutBothLabels, RunsAllEpochs) {
  const SharedDirectory directory(world());
  const auto data = directory.path() / "dataset";
  job().agree([&] {
    if (world().rank() == 0) write_one_label_dataset(data);
  });
  PretrainConfig config = tiny_config();
  config.epochs = 6;
  config.patience = 2;
  const PretrainResult result = run(job(), data, Owners::hashed, config).result;
  EXPECT_EQ(result.epochs.size(), 6U);
  EXPECT_EQ(result.best_epoch, 6);
  EXPECT_FALSE(result.valid_auc.has_value());
}

}  // namespace
}  // namespace graphlora::test
