// A run without one of its shortcuts is the run with it, in fp64, at any number of ranks.
#include "core/shortcuts.hpp"

#include <gtest/gtest.h>

#include <map>

#include "core/error.hpp"
#include "core/file.hpp"
#include "model/packed_weights.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

PartitionConfig three_groups() {
  PartitionConfig partition;
  partition.groups = 3;
  return partition;
}

/// Adapters on every linear; injection in every layer but the last, whose share of graph_ratio
/// depends on how much of it is computed.
ModelConfig every_target() {
  ModelConfig model = tiny_model_config();
  model.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  model.inject_layers = "0,1";
  return model;
}

Outcome outcome(const std::string& gnn, const TrainConfig& config = tiny_train_config(),
                const std::string& projector = "mlp") {
  const SharedDataset shared;
  ModelConfig model = every_target();
  model.gnn.type = gnn;
  model.projector = projector;
  return run(job(), shared.path(), three_groups(), model, config);
}

/// With all shortcuts; made once.
const Outcome& quick(const std::string& gnn) {
  static std::map<std::string, Outcome> made;
  if (!made.contains(gnn)) made.emplace(gnn, outcome(gnn));
  return made.at(gnn);
}

class WithoutShortcut : public ::testing::TestWithParam<Shortcut> {};

TEST_P(WithoutShortcut, TrainsTheSame) {
  const std::int64_t before = times_left_out(GetParam());
  std::vector<std::string> gnns{"lightgcn"};
  if (GetParam() == Shortcut::graph_sums || GetParam() == Shortcut::overlap ||
      GetParam() == Shortcut::embedding_update)
    gnns.emplace_back("gat");  // a frontier, and attention over edges
  for (const std::string& gnn : gnns) {
    SCOPED_TRACE(gnn);
    const Outcome& expected = quick(gnn);
    const PlainPaths plain({GetParam()});
    expect_same(outcome(gnn), expected, 1e-9);
  }
  // With a projector there is always something to train below the first layer.
  if (GetParam() == Shortcut::backward) {
    const Outcome expected = outcome("lightgcn", tiny_train_config(), "none");
    const PlainPaths plain({GetParam()});
    expect_same(outcome("lightgcn", tiny_train_config(), "none"), expected, 1e-9);
  }
  EXPECT_GT(times_left_out(GetParam()), before);
}

/// Where the linears are split, with their collectives.
TEST(Shortcuts, SplitLinearsOneByOneTrainTheSame) {
  if (world().size() % 2 != 0) GTEST_SKIP() << "needs two ranks";
  const SharedDataset shared;
  const auto split = [&] {
    return run(job(), shared.path(), three_groups(), every_target(), tiny_train_config(),
               {.tensor_parallel = 2});
  };
  const Outcome expected = split();
  const PlainPaths plain({Shortcut::products, Shortcut::residual, Shortcut::last_layer,
                          Shortcut::adapters, Shortcut::overlap});
  expect_same(split(), expected, 1e-9);
}

/// Those that a step in fp64 shows.
std::vector<Shortcut> of_a_step() {
  std::vector<Shortcut> all;
  for (std::size_t i = 0; i < kShortcuts; ++i) all.push_back(static_cast<Shortcut>(i));
  std::erase(all, Shortcut::save);
  for (const Shortcut of_bf16 : {Shortcut::packing, Shortcut::attention_tiles})
    std::erase(all, of_bf16);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Each, WithoutShortcut, ::testing::ValuesIn(of_a_step()),
                         [](const auto& shortcut) {
                           std::string name =
                               kShortcutNames[static_cast<std::size_t>(shortcut.param)];
                           std::erase(name, '-');
                           return name;
                         });

TEST(Shortcuts, AllOffAtOnce) {
  const Outcome& expected = quick("lightgcn");
  const PlainPaths plain(std::vector<std::string>{"all"});
  TrainConfig config = tiny_train_config();
  config.shared_prefix = false;
  config.micro_batch = 1;  // an example a pack
  expect_same(outcome("lightgcn", config), expected, 1e-9);
}

TEST(Shortcuts, PacksOfOneExampleTrainTheSame) {
  TrainConfig config = tiny_train_config();
  config.micro_batch = 1;
  expect_same(outcome("lightgcn", config), quick("lightgcn"), 1e-9);
}

TEST(Shortcuts, AreOffForAsLongAsAPlainPathLives) {
  EXPECT_FALSE(is_off(Shortcut::overlap));
  {
    const PlainPaths outer({Shortcut::overlap});
    {
      const PlainPaths inner(std::vector<std::string>{"overlap", "last-layer"});
      EXPECT_TRUE(is_off(Shortcut::last_layer));
    }
    EXPECT_TRUE(is_off(Shortcut::overlap));
    EXPECT_FALSE(is_off(Shortcut::last_layer));
  }
  EXPECT_FALSE(is_off(Shortcut::overlap));
}

TEST(Shortcuts, UnknownOnesAreNamed) {
  try {
    const PlainPaths plain(std::vector<std::string>{"overlap", "magic"});
    ADD_FAILURE() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("--train.plain magic"), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(is_off(Shortcut::overlap));
}

TEST(Shortcuts, PackedWeightsTrainTheSameToTheirRounding) {
  if (!PackedWeights::available()) GTEST_SKIP() << "this CPU has no matrix unit";
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  const auto losses = [&] {
    ModelConfig config = every_target();
    config.precision = "bf16";
    Recommender model(job(), workspace, kTinyLlama, config,
                      tiny_embeddings(workspace, kWidth, at::kFloat), false);
    model.initialize_from_data();
    Stepper stepper(model, tiny_train_config(), kSteps);
    std::vector<double> losses;
    for (std::int64_t step = 1; step <= kSteps; ++step) losses.push_back(stepper.step(step).loss);
    return losses;
  };
  const std::vector<double> packed = losses();
  EXPECT_EQ(losses(), packed);
  const std::int64_t before = times_left_out(Shortcut::packing);
  const PlainPaths plain({Shortcut::packing});
  const std::vector<double> unpacked = losses();
  EXPECT_GT(times_left_out(Shortcut::packing), before);
  // One bf16 number's rounding, and what steps make of it.
  EXPECT_NEAR(packed[0], unpacked[0], 4e-3 * unpacked[0]);
  for (std::size_t k = 1; k < packed.size(); ++k)
    EXPECT_NEAR(packed[k], unpacked[k], 3e-2 * unpacked[k]) << "step " << k + 1;
}

/// What a run leaves on disk, by name, but for the manifest, which names the run's own directory.
std::map<std::string, std::string> tensors_of(const std::filesystem::path& output) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(output))
    if (entry.path().extension() == ".safetensors")
      files[entry.path().lexically_relative(output).string()] = read_file(entry.path());
  return files;
}

TEST(Shortcuts, ASaveThatIsWaitedForWritesTheSameBytes) {
  const SharedDataset shared;
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  TrainConfig config = tiny_train_config();
  config.steps = 4;
  config.save_every = 2;
  const auto train_to = [&](const char* name) {
    Recommender model(job(), workspace, kTinyLlama, tiny_model_config(),
                      tiny_embeddings(workspace, kWidth, at::kDouble), false);
    model.initialize_from_data();
    config.output = shared.directory() / name;
    train(job(), model, config, nullptr);
    return tensors_of(config.output);
  };
  const auto beside = train_to("beside");
  const PlainPaths plain({Shortcut::save});
  const std::int64_t before = times_left_out(Shortcut::save);
  EXPECT_EQ(train_to("waited-for"), beside);
  EXPECT_GT(times_left_out(Shortcut::save), before);
  EXPECT_GT(beside.size(), 4u);
}

}  // namespace
}  // namespace graphlora::test
