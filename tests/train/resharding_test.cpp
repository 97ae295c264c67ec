// A run saved on any grid D x T goes on at any other, both ways, as if it had never stopped: in
// fp64 to 1e-8, on the same grid to the bit.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <sstream>

#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "support/devices.hpp"
#include "train/embedding_store.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {
namespace fs = std::filesystem;

constexpr std::int64_t kHalf = 2, kWhole = 4;

struct GridShape {
  int data, tensor;
  std::string name() const { return fmt::format("{}x{}", data, tensor); }
};
const std::vector<GridShape> kGrids{{1, 1}, {2, 1}, {1, 2}, {3, 1}, {1, 3}, {2, 2}, {4, 1}};

TrainConfig short_run(const fs::path& output) {
  TrainConfig config = tiny_train_config();
  config.output = output;
  config.steps = kWhole;
  config.save_every = kHalf;
  config.eval_every = kHalf;
  config.eval_examples = 0;
  config.keep = 0;
  config.stages = {"projector", "joint"};
  return config;
}

class Resharding : public OnSetting {
 protected:
  void SetUp() override {
    if (test::world().size() != 4) GTEST_SKIP() << "four ranks hold all grids";
    OnSetting::SetUp();
    if (!IsSkipped()) shared_.emplace();
  }
  fs::path output(const std::string& name) const { return shared_->directory() / name; }

  /// Trains to the end on the first ranks; the others wait. `from`: a step to go on from.
  void train_on(const GridShape& grid, const ModelConfig& model_config, const fs::path& output,
                const std::optional<fs::path>& from) {
    const int ranks = grid.data * grid.tensor;
    Job part(std::shared_ptr<Communicator>(
                 world().split(world().rank() < ranks ? 0 : 1, world().rank())),
             device());
    if (world().rank() < ranks) {
      PartitionConfig partition;
      partition.groups = 3;
      const Workspace workspace(part, shared_->path(), partition, Reuse::same_cut, grid.tensor);
      std::optional<Checkpoint> checkpoint;
      if (from) checkpoint.emplace(*from, true, true);
      Recommender model(part, workspace, kTinyLlama, model_config,
                        from ? read_embeddings(*from, workspace.shard->owned(),
                                               workspace.dataset->nodes(), at::kDouble)
                             : tiny_embeddings(workspace, kWidth, at::kDouble),
                        false);
      if (from) {
        checkpoint->load_parameters(model);
      } else {
        model.initialize_from_data();
        randomize_b(model);
      }
      const TrainResult result =
          train(part, model, short_run(output), from ? &*checkpoint : nullptr);
      EXPECT_EQ(result.state.step, kWhole);
    }
    world().barrier();
  }

  /// The last step of two runs, bit by bit only on the CPU; on rank 0.
  void expect_same(const fs::path& run, const fs::path& reference, bool bitwise) const {
    if (world().rank() != 0) return;
    bitwise = bitwise && device().is_cpu();
    const fs::path a = step_directory(run, kWhole), b = step_directory(reference, kWhole);
    int files = 0;
    for (const auto& entry : fs::recursive_directory_iterator(b)) {
      if (entry.path().extension() != ".safetensors") continue;
      const fs::path other = a / entry.path().lexically_relative(b);
      ++files;
      if (bitwise) {
        EXPECT_EQ(sha256_file(other), sha256_file(entry.path())) << other;
        continue;
      }
      const SafetensorsReader mine(other), theirs(entry.path());
      EXPECT_EQ(mine.entries().size(), theirs.entries().size());
      for (const auto& [name, about] : theirs.entries()) {
        const at::Tensor x = mine.tensor(name), y = theirs.tensor(name);
        EXPECT_LT(relative_difference(x.to(at::kDouble), y.to(at::kDouble)), kTolerance) << name;
      }
    }
    EXPECT_EQ(files, 4);
    const auto lines = metrics_of(run), expected = metrics_of(reference);
    EXPECT_EQ(lines.size(), expected.size());
    for (const auto& [key, value] : expected) {
      const auto found = lines.find(key);
      if (found == lines.end()) {
        ADD_FAILURE() << "step " << key << " has no line";
      } else {
        EXPECT_NEAR(found->second, value, bitwise ? 0 : kTolerance * std::abs(value)) << key;
      }
    }
    const TrainingState x = Checkpoint(a, true, true).state(),
                        y = Checkpoint(b, true, true).state();
    EXPECT_EQ(x.best_step, y.best_step);
    EXPECT_EQ(x.evaluated_step, y.evaluated_step);
    EXPECT_EQ(x.evaluations_since_best, y.evaluations_since_best);
  }

  /// Loss, or validation AUC, by step, of those behind the half.
  static std::map<std::string, double> metrics_of(const fs::path& run) {
    std::map<std::string, double> values;
    std::istringstream text(read_file(run / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["step"] <= kHalf) continue;
      const bool validation = json.contains("split");
      values[json["step"].dump() + (validation ? " valid" : "")] =
          json[validation ? "auc" : "loss"].get<double>();
    }
    return values;
  }

  std::optional<SharedDataset> shared_;
};

TEST_P(Resharding, EveryPairOfGrids) {
  ModelConfig config = tiny_model_config();
  config.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  config.lora.learn_lambda = true;
  for (const GridShape& grid : kGrids) train_on(grid, config, output(grid.name()), std::nullopt);
  for (const GridShape& from : kGrids) {
    expect_same(output(from.name()), output("1x1"), false);
    for (const GridShape& to : kGrids) {
      SCOPED_TRACE(from.name() + " to " + to.name());
      const fs::path there = output(from.name() + "-" + to.name());
      train_on(to, config, there, step_directory(output(from.name()), kHalf));
      expect_same(there, output("1x1"), false);
      if (from.name() == to.name()) expect_same(there, output(from.name()), true);
    }
  }
}

TEST_P(Resharding, EveryGnn) {
  for (const char* type : {"ngcf", "gcn", "graphsage", "gat"}) {
    ModelConfig config = tiny_model_config();
    config.gnn.type = type;
    config.gnn.layers = -1;
    const std::string name = type;
    const auto half = [&](const std::string& run) { return step_directory(output(run), kHalf); };
    train_on({1, 1}, config, output(name), std::nullopt);
    train_on({2, 2}, config, output(name + " 2x2"), std::nullopt);
    train_on({1, 1}, config, output(name + " again"), half(name));
    train_on({2, 2}, config, output(name + " spread"), half(name));
    train_on({3, 1}, config, output(name + " moved"), half(name + " 2x2"));
    SCOPED_TRACE(type);
    expect_same(output(name + " again"), output(name), true);
    expect_same(output(name + " spread"), output(name), false);
    expect_same(output(name + " moved"), output(name), false);
  }
}

INSTANTIATE_TEST_SUITE_P(Over, Resharding, kEverySetting, name_of_setting);

}  // namespace
}  // namespace graphlora::test
