// Distributed equals single: what P ranks train is what one rank trains, in fp64, whatever the
// partition.
#include "train/trainer.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "graph/bipartite_graph.hpp"
#include "support/devices.hpp"
#include "train/embedding_store.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

struct Case {
  const char* name;
  const char* split;
  const char* cut;
  const char* method;
};

class DistributedEqualsSingle : public OnSettingWith<Case> {};

TEST_P(DistributedEqualsSingle, LossGradientsParametersMomentsScores) {
  const Case& c = parameter<0>();
  const SharedDataset shared(c.split);
  PartitionConfig partition;
  partition.cut = c.cut;
  partition.groups = 3;
  partition.method = c.method;
  expect_many_equal_one(job(), shared.path(), partition, tiny_model_config(), tiny_train_config());
}

INSTANTIATE_TEST_SUITE_P(
    Partitions, DistributedEqualsSingle,
    ::testing::Combine(kEverySetting,
                       ::testing::Values(Case{"fold_metis", "user-time", "fold", "metis"},
                                         Case{"fold_random", "user-time", "fold", "random"},
                                         Case{"window_metis", "time", "window", "metis"},
                                         Case{"none_random", "time", "none", "random"})),
    [](const auto& info) {
      return setting_name(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
    });

class DistributedEqualsSingleParts : public OnSetting {};

/// One part that holds everything and empty ones, on a partition written by hand.
TEST_P(DistributedEqualsSingleParts, OnePartHoldsEverything) {
  SharedDirectory directory(world());
  const auto data = directory.path() / "dataset";
  PartitionConfig partition;
  partition.cut = "fold";
  partition.groups = 3;
  job().agree([&] {
    if (world().rank() != 0) return;
    write_tiny_dataset(data, 23, 17, "user-time");
    const Dataset dataset(data);
    PartitionConfig by_hand = partition;
    by_hand.parts = world().size();
    const CutRule cut(dataset, CutKind::fold, 3);
    const BipartiteGraph graph = build_training_graph(dataset, cut);
    const std::vector<std::int32_t> owner(graph.nodes, world().size() - 1);
    write_partition(dataset, by_hand, cut, graph, owner,
                    partition_directory(dataset, world().size()));
  });
  expect_many_equal_one(job(), data, partition, tiny_model_config(), tiny_train_config());
}

/// Batches smaller than the number of ranks: some ranks have no example, all have their nodes.
TEST_P(DistributedEqualsSingleParts, RanksWithoutExamples) {
  const SharedDataset shared;
  PartitionConfig partition;
  partition.groups = 3;
  TrainConfig config = tiny_train_config();
  config.batch_size = 2;
  expect_many_equal_one(job(), shared.path(), partition, tiny_model_config(), config);
}

/// The baselines are configurations of the same loop.
TEST_P(DistributedEqualsSingleParts, WithoutGraphAndWithoutProjector) {
  const SharedDataset shared;
  for (const bool projector : {true, false}) {
    ModelConfig model = tiny_model_config();
    model.gnn.type = "none";
    if (!projector) model.projector = "none";
    const PartitionConfig partition;
    expect_many_equal_one(job(), shared.path(), partition, model, tiny_train_config());
  }
}

/// Adapters on every linear, column- and row-parallel ones alike, and learned λs.
TEST_P(DistributedEqualsSingleParts, EveryTargetAndLearnedLambdas) {
  const SharedDataset shared;
  ModelConfig model = tiny_model_config();
  model.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  model.lora.learn_lambda = true;
  const PartitionConfig partition;
  expect_many_equal_one(job(), shared.path(), partition, model, tiny_train_config());
}

/// Examples of one user in one batch: their common beginning is computed once, on any number of
/// ranks, and all that is trained is what it is without.
TEST_P(DistributedEqualsSingleParts, SharedPrefixes) {
  const SharedDataset shared;
  ModelConfig model = tiny_model_config();
  model.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  model.lora.learn_lambda = true;
  PartitionConfig partition;
  partition.groups = 2;
  TrainConfig config = tiny_train_config();
  config.batch_size = 15;
  config.block = 5;
  config.shared_prefix = false;
  const Outcome plain = run_alone(shared.path(), partition, model, config);
  world().barrier();
  config.shared_prefix = true;
  for (const char* recompute : {"none", "layer"}) {
    config.recompute = recompute;
    const Outcome together = run(job(), shared.path(), partition, model, config);
    expect_same(together, plain);
    std::int64_t saved = 0;
    for (std::size_t k = 0; k < plain.steps.size(); ++k) {
      EXPECT_EQ(plain.steps[k].computed_tokens, plain.steps[k].tokens);
      saved += together.steps[k].tokens - together.steps[k].computed_tokens;
    }
    EXPECT_GT(saved, 100);
  }
}

class StepperOnSetting : public OnSetting {};

/// E moves by the gradient at this step's GNN weights, not at those the same step makes.
TEST_P(StepperOnSetting, UpdateOfEDoesNotSeeTheGnnsUpdate) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  const auto e_after_a_step = [&](const char* optimizer, double gnn_rate) {
    Recommender model(job(), workspace, kTinyLlama, tiny_model_config(),
                      tiny_embeddings(workspace, kWidth, at::kDouble), false);
    model.initialize_from_data();
    {
      const at::NoGradGuard guard;
      for (const Parameter& p : model.parameters())
        if (p.name.ends_with("lora_B.weight")) at::Tensor(p.value).fill_(0.1);
    }
    TrainConfig config = tiny_train_config();
    config.optimizer.type = optimizer;
    config.optimizer.lr_gnn = gnn_rate;
    Stepper stepper(model, config, kSteps);
    stepper.step(1);
    return model.table().weight_nD;
  };
  for (const char* optimizer : {"adamw", "sgd"}) {
    EXPECT_LE(relative_difference(e_after_a_step(optimizer, 0), e_after_a_step(optimizer, 10)),
              repeat_tolerance())
        << optimizer;
  }
}

/// Stages: what stands still, and the bias correction of what starts later.
TEST_P(DistributedEqualsSingleParts, Staged) {
  const SharedDataset shared;
  const PartitionConfig partition;
  TrainConfig config = tiny_train_config();
  config.stages = {"adapter", "projector", "joint"};
  expect_many_equal_one(job(), shared.path(), partition, tiny_model_config(), config);
}

class GradientTable : public OnSetting {};

/// The gradient table: breaking any row that acts at T = 1 changes what two ranks train.
TEST_P(GradientTable, EveryRowMatters) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const SharedDataset shared;
  ModelConfig model_config = tiny_model_config();
  model_config.lora.targets = {"q_proj", "v_proj", "o_proj", "down_proj"};
  model_config.lora.learn_lambda = true;
  const auto train_with_broken = [&](std::optional<Placement> broken) {
    const Workspace workspace(job(), shared.path(), PartitionConfig{});
    Recommender model(job(), workspace, kTinyLlama, model_config,
                      tiny_embeddings(workspace, kWidth, at::kDouble), false);
    model.initialize_from_data();
    const TrainConfig config = tiny_train_config();
    Stepper stepper(model, config, kSteps);
    if (broken) stepper.gradient_sync().override_axis_for_test(*broken, std::nullopt);
    for (std::int64_t step = 1; step <= kSteps; ++step) stepper.step(step);
    std::vector<std::pair<Placement, at::Tensor>> values;
    for (const Parameter& p : model.parameters())
      values.emplace_back(p.placement, p.value.detach().clone());
    return values;
  };
  const auto right = train_with_broken(std::nullopt);
  for (const Placement placement :
       {Placement::lora_a_column, Placement::lora_b_column, Placement::lora_a_row,
        Placement::lora_b_row, Placement::lambda, Placement::projector, Placement::gnn}) {
    const auto wrong = train_with_broken(placement);
    double difference = 0;
    for (std::size_t i = 0; i < right.size(); ++i) {
      if (right[i].first == placement)
        difference = std::max(difference, relative_difference(wrong[i].second, right[i].second));
    }
    EXPECT_GT(difference, 1e-5) << "placement " << static_cast<int>(placement)
                                << " was not reduced and nothing changed";
  }
}

class ParameterTraffic : public OnSetting {};

/// Bytes all-reduced for parameters are those of the parameters, once a step, and nothing else is.
TEST_P(ParameterTraffic, EqualsTheParametersBytes) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  Recommender model(job(), workspace, kTinyLlama, tiny_model_config(),
                    tiny_embeddings(workspace, kWidth, at::kDouble), false);
  model.initialize_from_data();
  const TrainConfig config = tiny_train_config();
  Stepper stepper(model, config, kSteps);
  std::int64_t expected = 0;
  for (const Parameter& p : model.parameters())
    expected += static_cast<std::int64_t>(p.value.nbytes());
  workspace.grid->world().reset_counters();
  workspace.grid->data().reset_counters();
  for (std::int64_t step = 1; step <= 3; ++step) stepper.step(step);
  const std::int64_t moved = workspace.grid->world().counter(Traffic::parameters).bytes +
                             workspace.grid->data().counter(Traffic::parameters).bytes;
  EXPECT_EQ(moved, 3 * expected);
  EXPECT_EQ(stepper.gradient_sync().bytes_per_step(), expected);
  // The scalars of a step: loss, tokens, norm of E, two of the ratio, signal, two of a save under
  // way, foreign anchors, bytes of each kind; two a rank.
  EXPECT_EQ(workspace.grid->world().counter(Traffic::metrics).bytes,
            3 * static_cast<std::int64_t>(sizeof(double)) *
                (9 + std::ssize(kStepTraffic) + 2 * world().size()));
  // Which anchors each rank wants: their ids, two an example, and how many.
  EXPECT_LE(workspace.grid->world().counter(Traffic::control).bytes,
            3 * 8 * (2 * config.batch_size + world().size()));
  EXPECT_EQ(workspace.grid->data().counter(Traffic::control).bytes, 0);
  for (const Traffic traffic : {Traffic::embedding, Traffic::pretrain}) {
    EXPECT_EQ(workspace.grid->world().counter(traffic).bytes, 0);
    EXPECT_EQ(workspace.grid->data().counter(traffic).bytes, 0);
  }
}

/// Rows of halos over all ranks, from the data alone: foreign neighbours through the edges in force
/// where the last groups are left out (windows, the last fold), of other folds through all edges.
std::int64_t rows_that_travel(const Workspace& workspace, int group) {
  const Dataset& dataset = *workspace.dataset;
  const CutRule& cut = workspace.shard->cut();
  const CutView view = cut.training_view(group);
  std::set<std::pair<int, std::int64_t>> rows;  // receiver, node
  for (const std::int64_t row : dataset.rows_of(Split::train)) {
    if (dataset.label()[row] == 0) continue;
    const int its = cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row]);
    if (view.drop_end == cut.groups() && its >= view.drop_begin) continue;
    const std::int64_t user = dataset.user_node(row), item = dataset.item_node(row);
    if (workspace.map->owner(user) == workspace.map->owner(item)) continue;
    rows.emplace(workspace.map->owner(user), item);
    rows.emplace(workspace.map->owner(item), user);
  }
  return std::ssize(rows);
}

/// What a step says has travelled is what must travel: parameters once a rank, halo rows there and
/// gradients back in every layer, anchors' rows and their gradients.
TEST(StepTraffic, EqualsTheFormula) {
  for (const char* split : {"user-time", "time"}) {
    SCOPED_TRACE(split);
    const SharedDataset shared(split);
    PartitionConfig partition;
    partition.groups = 3;
    const Workspace workspace(job(), shared.path(), partition);
    Recommender model(job(), workspace, kTinyLlama, tiny_model_config(),
                      tiny_embeddings(workspace, kWidth, at::kDouble), false);
    model.initialize_from_data();
    const TrainConfig config = tiny_train_config();
    Stepper stepper(model, config, kSteps);
    const std::int64_t number = sizeof(double), layers = model.gnn()->layers(),
                       rank = model.config().lora.rank;
    std::int64_t travelled = 0;
    for (std::int64_t step = 1; step <= kSteps; ++step) {
      const StepResult result = stepper.step(step);
      EXPECT_EQ(result.cut_group, stepper.sampler().batch(step).group);
      std::map<Traffic, std::int64_t> expected;
      expected[Traffic::parameters] = world().size() * stepper.gradient_sync().bytes_per_step();
      expected[Traffic::halo] =
          2 * layers * rank * number * rows_that_travel(workspace, result.cut_group);
      expected[Traffic::anchors] = 2 * (kWidth + rank) * number * result.foreign_anchors;
      for (std::size_t k = 0; k < kStepTraffic.size(); ++k) {
        EXPECT_EQ(result.sent_bytes[k], expected[kStepTraffic[k]])
            << "step " << step << " " << traffic_name(kStepTraffic[k]);
      }
      EXPECT_LE(result.foreign_anchors, 2 * result.examples);
      travelled += expected[Traffic::halo];
    }
    EXPECT_EQ(travelled > 0, world().size() > 1);
  }
}

class Train : public OnSetting {};

/// A loss that is not finite ends the run on every rank with one message, before anything moved.
TEST_P(Train, DivergenceIsAnAgreedError) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  Recommender model(job(), workspace, kTinyLlama, tiny_model_config(),
                    tiny_embeddings(workspace, kWidth, at::kDouble), false);
  model.initialize_from_data();
  {
    const at::NoGradGuard guard;
    at::Tensor(model.parameters().front().value).fill_(1e300);
    for (const Parameter& p : model.parameters())
      if (p.name.ends_with("lora_B.weight")) at::Tensor(p.value).fill_(1e300);
  }
  const at::Tensor before = model.table().weight_nD.clone();
  TrainConfig config = tiny_train_config();
  config.output = shared.directory() / "out";
  config.steps = 3;
  try {
    train(job(), model, config, nullptr);
    ADD_FAILURE() << "the run went on";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("step 1: loss"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(at::equal(model.table().weight_nD, before));
  EXPECT_FALSE(std::filesystem::exists(config.output / "LATEST"));
}

/// BEST, LATEST and the newest `keep` steps stay.
TEST(Checkpoints, KeepTheNewestAndTheBest) {
  if (world().rank() != 0) return;  // what it tests is local to rank 0
  const TemporaryDirectory directory;
  const std::filesystem::path output = directory.path();
  for (std::int64_t step = 1; step <= 5; ++step) make_directories(step_directory(output, step));
  make_directories(output / "step-000001.tmp-1");
  mark_best(output, 1);
  write_file(output / "LATEST", "step-000005\n");
  const auto kept = [&] {
    std::set<std::int64_t> steps;
    for (std::int64_t step = 1; step <= 5; ++step)
      if (std::filesystem::exists(step_directory(output, step))) steps.insert(step);
    return steps;
  };
  delete_old_steps(output, 0);
  EXPECT_EQ(kept(), (std::set<std::int64_t>{1, 2, 3, 4, 5}));
  delete_old_steps(output, 3);
  EXPECT_EQ(kept(), (std::set<std::int64_t>{1, 3, 4, 5}));
  delete_old_steps(output, 1);
  EXPECT_EQ(kept(), (std::set<std::int64_t>{1, 5}));
  EXPECT_TRUE(std::filesystem::exists(output / "step-000001.tmp-1"));
  EXPECT_FALSE(std::filesystem::exists(output / "step-000003.tmp-old"));
  write_file(output / "BEST", "../5");
  EXPECT_THROW(delete_old_steps(output, 1), DataError);
}

class Resume : public OnSetting {};

/// A run that stops and resumes ends with the same bits as one that does not; on a GPU, to
/// rounding.
TEST_P(Resume, SameBitsAsUninterrupted) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  const auto fresh = [&] {
    return std::make_unique<Recommender>(job(), workspace, kTinyLlama, tiny_model_config(),
                                         tiny_embeddings(workspace, kWidth, at::kDouble), false);
  };
  TrainConfig config = tiny_train_config();
  config.output = shared.directory() / "whole";
  config.steps = 4;
  config.schedule.kind = "constant";
  auto whole = fresh();
  whole->initialize_from_data();
  train(job(), *whole, config, nullptr);

  config.output = shared.directory() / "parts";
  config.steps = 2;
  auto first = fresh();
  first->initialize_from_data();
  train(job(), *first, config, nullptr);
  const Checkpoint checkpoint(config.output, true, true);
  auto second = std::make_unique<Recommender>(
      job(), workspace, kTinyLlama, tiny_model_config(),
      read_embeddings(checkpoint.directory(), workspace.shard->owned(), workspace.dataset->nodes(),
                      at::kDouble),
      false);
  checkpoint.load_parameters(*second);
  config.steps = 4;
  const TrainResult result = train(job(), *second, config, &checkpoint);
  EXPECT_EQ(result.state.step, 4);
  for (std::size_t i = 0; i < whole->parameters().size(); ++i) {
    EXPECT_LE(relative_difference(second->parameters()[i].value.detach(),
                                  whole->parameters()[i].value.detach()),
              repeat_tolerance())
        << whole->parameters()[i].name;
  }
  EXPECT_LE(relative_difference(second->table().weight_nD, whole->table().weight_nD),
            repeat_tolerance());
  EXPECT_LE(relative_difference(second->table().exp_avg_sq_nD, whole->table().exp_avg_sq_nD),
            repeat_tolerance());
}

INSTANTIATE_TEST_SUITE_P(Over, DistributedEqualsSingleParts, kEverySetting, name_of_setting);
INSTANTIATE_TEST_SUITE_P(Over, StepperOnSetting, kEverySetting, name_of_setting);
INSTANTIATE_TEST_SUITE_P(Over, GradientTable, kEverySetting, name_of_setting);
INSTANTIATE_TEST_SUITE_P(Over, ParameterTraffic, kEverySetting, name_of_setting);
INSTANTIATE_TEST_SUITE_P(Over, Train, kEverySetting, name_of_setting);
INSTANTIATE_TEST_SUITE_P(Over, Resume, kEverySetting, name_of_setting);

}  // namespace
}  // namespace graphlora::test
