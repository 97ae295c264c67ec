// A short fp64 training run on any grid, and what it leaves behind to compare with another's.
#pragma once
#include <gtest/gtest.h>

#include <vector>

#include "support/tiny_world.hpp"
#include "train/evaluate.hpp"
#include "train/trainer.hpp"

namespace graphlora::test {

inline constexpr std::int64_t kWidth = 10, kSteps = 5;
inline constexpr double kTolerance = 1e-8;

inline TrainConfig tiny_train_config() {
  TrainConfig config;
  config.batch_size = 9;
  config.micro_batch = 300;
  config.seed = 3;
  config.unknown_rate = 0.2;
  config.optimizer.lr = 3e-3;
  config.optimizer.weight_decay = 0.01;
  config.schedule.warmup = 2;
  config.clip = 0.5;
  return config;
}

/// Everything a run of some steps leaves behind, in an order that does not depend on the ranks.
struct Outcome {
  std::vector<StepResult> steps;

  std::vector<std::string> names;
  std::vector<at::Tensor> parameters, moments;
  at::Tensor e, exp_avg, exp_avg_sq;
  std::vector<float> scores;
};

/// Moves every B away from its zero start, which would hide the path through A in the first steps:
/// drawn whole, then sliced.
inline void randomize_b(const Recommender& model) {
  const at::NoGradGuard guard;
  for (const Parameter& p : model.parameters()) {
    if (p.placement != Placement::lora_b_column && p.placement != Placement::lora_b_row) continue;
    const at::Tensor whole =
        at::empty(p.slice ? p.slice->whole_shape(p.value) : p.value.sizes().vec(), at::kDouble);
    SplitMix64 random(hash_name(11, p.name));
    for (std::int64_t i = 0; i < whole.numel(); ++i)
      whole.mutable_data_ptr<double>()[i] = 0.1 * random.normal();
    at::Tensor(p.value).copy_(p.slice ? p.slice->of(whole, p.value) : whole);
  }
}

/// Saves step 0 and waits for it. Collective.
inline void save_now(Job& job, const std::filesystem::path& output, Recommender& model,
                     Optimizer& optimizer) {
  CheckpointWriter writer(job, *job.world(), {output, 0});
  writer.start(model, optimizer, {}, {});
  writer.finish();
  EXPECT_FALSE(writer.failed());
}

/// The LLM of a run, and how many ranks share one.
struct Llm {
  std::filesystem::path directory = kTinyLlama;
  int tensor_parallel = 1;
};

inline Outcome run(Job& job, const std::filesystem::path& data, const PartitionConfig& partition,
                   const ModelConfig& model_config, TrainConfig config, const Llm& llm = {}) {
  const Workspace workspace(job, data, partition, Reuse::same_cut, llm.tensor_parallel);
  Recommender model(job, workspace, llm.directory, model_config,
                    tiny_embeddings(workspace, kWidth, at::kDouble), false);
  model.initialize_from_data();
  randomize_b(model);
  Outcome outcome;
  Stepper stepper(model, config, kSteps);
  for (std::int64_t step = 1; step <= kSteps; ++step) outcome.steps.push_back(stepper.step(step));
  const auto whole = [&](const Parameter& p, const at::Tensor& part) {
    return gather_slices(workspace.grid->tensor(), part.detach(), p.slice).cpu().clone();
  };
  for (std::size_t i = 0; i < model.parameters().size(); ++i) {
    const Parameter& p = model.parameters()[i];
    outcome.names.push_back(p.name);
    outcome.parameters.push_back(whole(p, p.value));
    const Optimizer::State& state = stepper.optimizer().states()[i];
    if (!state.exp_avg.defined()) continue;
    outcome.moments.push_back(whole(p, state.exp_avg));
    outcome.moments.push_back(whole(p, state.exp_avg_sq));
  }
  outcome.e = in_node_order(workspace, model.table().weight_nD);
  if (model.table().exp_avg_nD.defined()) {
    outcome.exp_avg = in_node_order(workspace, model.table().exp_avg_nD);
    outcome.exp_avg_sq = in_node_order(workspace, model.table().exp_avg_sq_nD);
  }
  const auto rows = workspace.dataset->sample(Split::test, 0, 1);
  outcome.scores = score_rows(model, rows, 300, "scoring");
  return outcome;
}

inline void expect_same(const Outcome& many, const Outcome& one, double tolerance = kTolerance) {
  for (std::int64_t k = 0; k < kSteps; ++k) {
    EXPECT_NEAR(many.steps[k].loss, one.steps[k].loss, tolerance * std::abs(one.steps[k].loss))
        << "step " << k + 1;
    EXPECT_NEAR(many.steps[k].grad_norm, one.steps[k].grad_norm, tolerance * one.steps[k].grad_norm)
        << "step " << k + 1;
    EXPECT_NEAR(many.steps[k].graph_ratio, one.steps[k].graph_ratio,
                tolerance * std::abs(one.steps[k].graph_ratio));
    EXPECT_EQ(many.steps[k].tokens, one.steps[k].tokens);
  }
  for (std::size_t i = 0; i < one.parameters.size(); ++i) {
    EXPECT_LT(relative_difference(many.parameters[i], one.parameters[i]), tolerance)
        << one.names[i];
  }
  ASSERT_EQ(many.moments.size(), one.moments.size());
  for (std::size_t i = 0; i < one.moments.size(); ++i) {
    EXPECT_LT(relative_difference(many.moments[i], one.moments[i]), tolerance)
        << "moment of " << one.names[i / 2];
  }
  EXPECT_LT(relative_difference(many.e, one.e), tolerance);
  if (one.exp_avg.defined()) {
    EXPECT_LT(relative_difference(many.exp_avg, one.exp_avg), tolerance);
    EXPECT_LT(relative_difference(many.exp_avg_sq, one.exp_avg_sq), tolerance);
  }
  ASSERT_EQ(many.scores.size(), one.scores.size());
  for (std::size_t i = 0; i < one.scores.size(); ++i)
    EXPECT_NEAR(many.scores[i], one.scores[i], 1e-6) << "row " << i;
}

/// This rank alone, on the CPU, on a copy of the dataset of its own (partitions lie beside the
/// data).
inline Outcome run_alone(const std::filesystem::path& data, const PartitionConfig& partition,
                         const ModelConfig& model_config, const TrainConfig& config,
                         const std::filesystem::path& llm = kTinyLlama) {
  Job alone(std::shared_ptr<Communicator>(world().split(world().rank(), 0)));
  TemporaryDirectory own;
  std::filesystem::copy(data, own / "dataset", std::filesystem::copy_options::recursive);
  return run(alone, own / "dataset", partition, model_config, config, {.directory = llm});
}

/// All ranks of a job together against this one alone.
inline void expect_many_equal_one(Job& job, const std::filesystem::path& data,
                                  const PartitionConfig& partition, const ModelConfig& model_config,
                                  const TrainConfig& config, const Llm& llm = {}) {
  const Outcome one = run_alone(data, partition, model_config, config, llm.directory);
  world().barrier();
  expect_same(run(job, data, partition, model_config, config, llm), one);
}

}  // namespace graphlora::test
