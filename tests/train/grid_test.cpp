// Any grid D x T trains what one process trains, in fp64: every family, uneven heads and MLP
// columns.
#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "support/devices.hpp"
#include "train/embedding_store.hpp"
#include "train/peft_adapter.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

/// Ways to share this run's ranks among replicas, T > 1 (T = 1 is trainer_test's): the tiny models
/// have 3 key/value groups, so 2 ranks of a replica hold 2 and 1 of them.
std::vector<int> tensor_sizes() {
  std::vector<int> sizes;
  for (const int t : {2, 3})
    if (world().size() % t == 0) sizes.push_back(t);
  return sizes;
}

ModelConfig every_target() {
  ModelConfig config = tiny_model_config();
  config.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  config.lora.learn_lambda = true;
  return config;
}

/// tests/golden/tiny_llama made into another family: its weights, and what that one has besides.
/// Mistral's window is shorter than the prompts; Qwen3's heads are half as wide as hidden/heads.
void write_family(const std::filesystem::path& directory, const std::string& family) {
  make_directories(directory);
  std::filesystem::copy_file(kTinyLlama / "tokenizer.json", directory / "tokenizer.json");
  nlohmann::json config = read_json(kTinyLlama / "config.json");
  const SafetensorsReader llama(kTinyLlama / "model.safetensors");
  config["model_type"] = family;
  if (family == "mistral") {
    config["architectures"] = {"MistralForCausalLM"};
    config["sliding_window"] = 9;
  } else if (family == "qwen2") {
    config["architectures"] = {"Qwen2ForCausalLM"};
  } else if (family == "qwen3") {
    config["architectures"] = {"Qwen3ForCausalLM"};
    config["head_dim"] = 2;
  }
  at::manual_seed(12);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& [name, entry] : llama.entries()) {
    at::Tensor tensor = llama.tensor(name).clone();
    const auto is = [&](const char* part) { return name.find(part) != std::string::npos; };
    if (family == "qwen3") {
      if (is("q_proj") || is("k_proj") || is("v_proj"))
        tensor = tensor.narrow(0, 0, tensor.size(0) / 2).contiguous();
      if (is("o_proj")) tensor = tensor.narrow(1, 0, tensor.size(1) / 2).contiguous();
    }
    const std::string prefix = name.substr(0, name.rfind('.'));
    if (family == "qwen2" && (is("q_proj") || is("k_proj") || is("v_proj")))
      tensors.emplace_back(prefix + ".bias", at::randn({tensor.size(0)}, tensor.options()));
    if (family == "qwen3" && is("q_proj")) {
      const std::string block = prefix.substr(0, prefix.rfind('.'));
      for (const char* norm : {".q_norm.weight", ".k_norm.weight"})
        tensors.emplace_back(block + norm, at::rand({2}, tensor.options()) + 0.5);
    }
    tensors.emplace_back(name, std::move(tensor));
  }
  write_json(directory / "config.json", config);
  write_safetensors(directory / "model.safetensors", tensors, {{"format", "pt"}});
}

class Grid : public OnSettingWith<const char*> {
 protected:
  void SetUp() override {
    if (tensor_sizes().empty()) GTEST_SKIP() << "the ranks of this run cannot share a replica";
    OnSettingWith::SetUp();
    if (IsSkipped()) return;
    shared_.emplace();
    llm_ = shared_->directory() / "llm";
    job().agree([&] {
      if (world().rank() == 0) write_family(llm_, parameter<0>());
    });
  }
  /// All ranks, in every way to share them, against this one alone.
  void expect_equal(const ModelConfig& model, const TrainConfig& config) {
    PartitionConfig partition;
    partition.groups = 3;
    const Outcome one = run_alone(shared_->path(), partition, model, config, llm_);
    for (const int t : tensor_sizes()) {
      SCOPED_TRACE(fmt::format("T = {}", t));
      world().barrier();
      expect_same(run(job(), shared_->path(), partition, model, config, {llm_, t}), one);
    }
  }
  std::optional<SharedDataset> shared_;
  std::filesystem::path llm_;
};

TEST_P(Grid, QueryAndValueAdapters) { expect_equal(tiny_model_config(), tiny_train_config()); }

TEST_P(Grid, EveryTargetAndLearnedLambdas) { expect_equal(every_target(), tiny_train_config()); }

TEST_P(Grid, RowSplitAdaptersAlone) {
  ModelConfig model = tiny_model_config();
  model.lora.targets = {"o_proj", "down_proj"};
  TrainConfig config = tiny_train_config();
  config.optimizer.type = "sgd";  // sees the size of gradients, which AdamW hides
  config.optimizer.lr = 0.5;
  expect_equal(model, config);
}

/// Layers that run again in the backward repeat their collectives in one order on all ranks.
TEST_P(Grid, RecomputedLayers) {
  TrainConfig config = tiny_train_config();
  config.recompute = "layer";
  expect_equal(every_target(), config);
}

/// Blocks of one user's rows, which one process trains without sharing their beginnings.
TEST_P(Grid, SharedPrefixes) {
  PartitionConfig partition;
  partition.groups = 2;
  TrainConfig config = tiny_train_config();
  config.batch_size = 15;
  config.block = 5;
  config.shared_prefix = false;
  const Outcome plain = run_alone(shared_->path(), partition, every_target(), config, llm_);
  config.shared_prefix = true;
  for (const int t : tensor_sizes()) {
    SCOPED_TRACE(fmt::format("T = {}", t));
    world().barrier();
    const Outcome together =
        run(job(), shared_->path(), partition, every_target(), config, {llm_, t});
    expect_same(together, plain);
    std::int64_t saved = 0;
    for (const StepResult& step : together.steps) saved += step.tokens - step.computed_tokens;
    EXPECT_GT(saved, 100);
  }
}

/// Replicas without an example, and an anchor or none for each rank of a group to fetch.
TEST_P(Grid, BatchesSmallerThanTheGrid) {
  TrainConfig config = tiny_train_config();
  config.batch_size = 1;
  expect_equal(every_target(), config);
}

INSTANTIATE_TEST_SUITE_P(Families, Grid,
                         ::testing::Combine(kEverySetting, ::testing::Values("llama", "mistral",
                                                                             "qwen2", "qwen3")),
                         [](const auto& info) {
                           return setting_name(std::get<0>(info.param)) + "_" +
                                  std::get<1>(info.param);
                         });

class SplitRun : public OnSetting {
 protected:
  void SetUp() override {
    if (tensor_sizes().empty()) GTEST_SKIP() << "the ranks of this run cannot share a replica";
    OnSetting::SetUp();
    if (IsSkipped()) return;
    shared_.emplace();
    workspace_ = std::make_unique<Workspace>(job(), shared_->path(), PartitionConfig{},
                                             Reuse::same_cut, tensor_sizes().front());
  }
  std::unique_ptr<Recommender> make_model(const ModelConfig& config) {
    return make_model(job(), *workspace_, config);
  }
  static std::unique_ptr<Recommender> make_model(Job& job, const Workspace& workspace,
                                                 const ModelConfig& config) {
    auto model = std::make_unique<Recommender>(
        job, workspace, kTinyLlama, config, tiny_embeddings(workspace, kWidth, at::kDouble), false);
    model->initialize_from_data();
    randomize_b(*model);
    return model;
  }
  std::optional<SharedDataset> shared_;
  std::unique_ptr<Workspace> workspace_;
};

/// The gradient table at T > 1: reducing a parameter over any other axis than its own trains
/// something else. (Sliced ones have another shape on each rank of a group, so that the world is no
/// axis for them.)
TEST_P(SplitRun, EveryRowOfTheGradientTableMatters) {
  TrainConfig config = tiny_train_config();
  config.optimizer.type = "sgd";
  config.clip = 0;
  const auto train_with = [&](Placement broken, std::optional<std::optional<Axis>> axis) {
    const auto model = make_model(every_target());
    Stepper stepper(*model, config, kSteps);
    if (axis) stepper.gradient_sync().override_axis_for_test(broken, *axis);
    for (std::int64_t step = 1; step <= 2; ++step) stepper.step(step);
    std::vector<at::Tensor> values;
    for (const Parameter& p : model->parameters())
      if (p.placement == broken) values.push_back(p.value.detach().clone());
    return values;
  };
  const bool replicas = workspace_->grid->replicas() > 1;
  for (const Placement placement :
       {Placement::lora_a_column, Placement::lora_b_column, Placement::lora_a_row,
        Placement::lora_b_row, Placement::lambda, Placement::projector, Placement::gnn}) {
    const auto right = train_with(placement, std::nullopt);
    ASSERT_FALSE(right.empty());
    std::vector<std::optional<Axis>> wrong;
    if (reduction_axis(placement) == Axis::world) wrong = {std::nullopt, Axis::data};
    if (reduction_axis(placement) == Axis::data && replicas) wrong.push_back(std::nullopt);
    if (reduction_axis(placement) == Axis::data && !is_sliced(placement))
      wrong.push_back(Axis::world);
    for (const auto& axis : wrong) {
      const auto values = train_with(placement, axis);
      at::Tensor difference = at::zeros({1}, at::kDouble);
      for (std::size_t i = 0; i < right.size(); ++i)
        difference.fill_(
            std::max(difference.item<double>(), relative_difference(values[i], right[i])));
      // A rank whose share was all of it may be right by itself.
      world().all_reduce(difference, ReduceOp::max, Traffic::control).wait();
      EXPECT_GT(difference.item<double>(), 1e-6)
          << "placement " << static_cast<int>(placement) << " reduced over "
          << (!axis                 ? "nothing"
              : *axis == Axis::data ? "data"
                                    : "world");
    }
  }
}

/// Bytes all-reduced for parameters are those of this rank's adapters, projector and GNN, no more.
TEST_P(SplitRun, ParameterBytesAreThoseOfWhatIsTrained) {
  const auto model = make_model(every_target());
  const TrainConfig config = tiny_train_config();
  Stepper stepper(*model, config, kSteps);
  std::int64_t expected = 0;
  for (const Parameter& p : model->parameters())
    expected += static_cast<std::int64_t>(p.value.nbytes());
  const ProcessGrid& grid = *workspace_->grid;
  for (Communicator* axis : {&grid.world(), &grid.data(), &grid.tensor()}) axis->reset_counters();
  for (std::int64_t step = 1; step <= 2; ++step) stepper.step(step);
  EXPECT_EQ(grid.world().counter(Traffic::parameters).bytes +
                grid.data().counter(Traffic::parameters).bytes,
            2 * expected);
  EXPECT_EQ(grid.tensor().counter(Traffic::parameters).bytes, 0);
}

/// What travels over the tensor axis in one forward and backward: two all-reduces of a layer's
/// split outputs, two of its inputs' gradients, and the low-rank ones beside them.
TEST_P(SplitRun, FourGroupedReductionsALayer) {
  ModelConfig config = tiny_model_config();
  config.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  const auto model = make_model(config);
  TrainConfig one_pack = tiny_train_config();
  one_pack.micro_batch = 1 << 20;
  Stepper stepper(*model, one_pack, kSteps);
  Communicator& tensor = workspace_->grid->tensor();
  tensor.reset_counters();
  const StepResult result = stepper.step(1);
  ASSERT_TRUE(result.divergence.empty());
  const LlamaConfig& llama = model->llm().config();
  EXPECT_GT(tensor.counter(Traffic::activations).bytes, 0);
  // Per layer: o and down forward (W·x and A·x each), qkv and gate_up backward (dx and dh each);
  // the last layer splits qkv in two.
  EXPECT_EQ(tensor.counter(Traffic::activations).operations, 8 * llama.layers + 2);
}

/// A checkpoint loads on another grid, and what that one writes of it has the same bytes.
TEST_P(SplitRun, CheckpointsAreTopologyFree) {
  const auto model = make_model(every_target());
  const TrainConfig config = tiny_train_config();
  Optimizer optimizer(model->parameters(), config.optimizer);
  const auto output = shared_->directory() / "split";
  save_now(job(), output, *model, optimizer);

  Job alone(std::shared_ptr<Communicator>(world().split(world().rank(), 0)));
  const TemporaryDirectory own;
  std::filesystem::copy(shared_->path(), own / "dataset", std::filesystem::copy_options::recursive);
  const Workspace workspace(alone, own / "dataset", PartitionConfig{});
  const auto whole = make_model(alone, workspace, every_target());
  Optimizer whole_optimizer(whole->parameters(), config.optimizer);
  {
    const at::NoGradGuard guard;
    for (const Parameter& p : whole->parameters()) at::Tensor(p.value).fill_(0.5);
  }
  Checkpoint(output, true, true).load_parameters(*whole);
  save_now(alone, own / "whole", *whole, whole_optimizer);
  for (const char* file : {"adapter/adapter_model.safetensors", "adapter/adapter_config.json",
                           "graphlora.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(sha256_file(step_directory(output, 0) / file),
              sha256_file(step_directory(own / "whole", 0) / file))
        << file;
  }

  // Back into a model of this grid, over other values.
  const auto other = make_model(every_target());
  {
    const at::NoGradGuard guard;
    for (const Parameter& p : other->parameters()) at::Tensor(p.value).fill_(0.5);
  }
  Checkpoint(own / "whole", true, true).load_parameters(*other);
  for (std::size_t i = 0; i < model->parameters().size(); ++i)
    EXPECT_TRUE(at::equal(other->parameters()[i].value, model->parameters()[i].value))
        << model->parameters()[i].name;
}

/// A whole PEFT adapter loads into this grid's slices.
TEST_P(SplitRun, AdaptersToStartFromAreSliced) {
  const auto model = make_model(every_target());
  Optimizer optimizer(model->parameters(), tiny_train_config().optimizer);
  const auto output = shared_->directory() / "peft";
  save_now(job(), output, *model, optimizer);
  const auto other = make_model(every_target());
  {
    const at::NoGradGuard guard;
    for (const Parameter& p : other->parameters()) at::Tensor(p.value).fill_(0.5);
  }
  PeftAdapter(step_directory(output, 0) / "adapter").load(other->parameters());
  int sliced = 0;
  for (std::size_t i = 0; i < model->parameters().size(); ++i) {
    const Parameter &before = model->parameters()[i], &after = other->parameters()[i];
    if (before.name.find(".lora_") == std::string::npos) {
      EXPECT_TRUE(after.value.eq(0.5).all().item<bool>()) << after.name;
      continue;
    }
    EXPECT_TRUE(at::equal(after.value, before.value)) << after.name;
    sliced += after.slice.has_value();
  }
  EXPECT_GT(sliced, 0);
}

/// Replicated parameters that differ inside a tensor group stop a save.
TEST_P(SplitRun, ADriftingReplicaIsNoticed) {
  const auto model = make_model(tiny_model_config());
  if (workspace_->grid->tensor_rank() == 1) {
    const at::NoGradGuard guard;
    for (const Parameter& p : model->parameters())
      if (p.placement == Placement::lora_a_column) at::Tensor(p.value).flatten()[0] += 1e-15;
  }
  EXPECT_THROW(check_replicas_equal(*workspace_->grid, model->parameters()), CommError);
}

/// Slices that differ from those of another replica, by the number of the rank in the world.
TEST_P(SplitRun, ADriftingSliceIsNoticed) {
  const ProcessGrid& grid = *workspace_->grid;
  if (grid.replicas() == 1) GTEST_SKIP() << "needs four ranks";
  const auto model = make_model(tiny_model_config());
  const int drifting = grid.tensor_parallel() + 1;
  if (grid.rank() == drifting) {
    const at::NoGradGuard guard;
    for (const Parameter& p : model->parameters())
      if (p.placement == Placement::lora_b_column) at::Tensor(p.value).flatten()[0] += 1e-15;
  }
  std::string message;
  try {
    check_replicas_equal(*workspace_->grid, model->parameters());
  } catch (const CommError& error) {
    message = error.what();
  }
  EXPECT_EQ(message.find(fmt::format("on rank {} is not what it is on rank 1", drifting)) !=
                std::string::npos,
            grid.tensor_rank() == 1)
      << message;
}

INSTANTIATE_TEST_SUITE_P(Over, SplitRun, kEverySetting, name_of_setting);

TEST(SplitErrors, MoreRanksThanGroups) {
  if (world().size() < 4) GTEST_SKIP() << "needs four ranks";
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{}, Reuse::same_cut, 4);
  try {
    const Recommender model(job(), workspace, kTinyLlama, tiny_model_config(),
                            tiny_embeddings(workspace, kWidth, at::kDouble), false);
    ADD_FAILURE() << "accepted";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    EXPECT_NE(std::string(error.what()).find("3 key/value groups"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace graphlora::test
