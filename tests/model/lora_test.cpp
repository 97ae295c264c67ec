#include "model/lora.hpp"

#include <gtest/gtest.h>

#include <set>

#include "core/error.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::tiny_config;

LoraConfig all_targets() {
  LoraConfig config;
  config.targets.assign(kTargetNames.begin(), kTargetNames.end());
  return config;
}

const Precision kFp32{at::kFloat, at::kFloat};

TEST(Lora, NamesShapesAndPlacements) {
  const LlamaConfig model = tiny_config();
  const LoraAdapters adapters(model, ModelSlice::whole(model), all_targets(), kFp32, 1);
  std::map<std::string, const Parameter*> by_name;
  for (const Parameter& p : adapters.parameters()) by_name[p.name] = &p;
  ASSERT_EQ(by_name.size(), 3U * 7 * 2);
  const auto expect = [&](const std::string& name, std::vector<std::int64_t> shape,
                          Placement placement) {
    ASSERT_TRUE(by_name.count(name)) << name;
    EXPECT_EQ(by_name[name]->value.sizes().vec(), shape) << name;
    EXPECT_EQ(by_name[name]->placement, placement) << name;
    EXPECT_TRUE(by_name[name]->value.requires_grad()) << name;
  };
  const std::string layer = "base_model.model.model.layers.2.";
  expect(layer + "self_attn.q_proj.lora_A.weight", {8, 36}, Placement::lora_a_column);
  expect(layer + "self_attn.q_proj.lora_B.weight", {36, 8}, Placement::lora_b_column);
  expect(layer + "self_attn.k_proj.lora_B.weight", {12, 8}, Placement::lora_b_column);
  expect(layer + "self_attn.o_proj.lora_A.weight", {8, 36}, Placement::lora_a_row);
  expect(layer + "mlp.gate_proj.lora_B.weight", {50, 8}, Placement::lora_b_column);
  expect(layer + "mlp.down_proj.lora_A.weight", {8, 50}, Placement::lora_a_row);
  expect(layer + "mlp.down_proj.lora_B.weight", {36, 8}, Placement::lora_b_row);
}

/// A known fault of the published code: a stray trainable bias at the injection layer.
TEST(Lora, NoStrayBias) {
  LoraConfig config = all_targets();
  config.inject_layers = {1};
  const LoraAdapters adapters(tiny_config(), ModelSlice::whole(tiny_config()), config, kFp32, 1);
  for (const Parameter& p : adapters.parameters()) {
    EXPECT_TRUE(p.name.ends_with(".lora_A.weight") || p.name.ends_with(".lora_B.weight")) << p.name;
  }
  config.learn_lambda = true;
  const LoraAdapters learned(tiny_config(), ModelSlice::whole(tiny_config()), config, kFp32, 1);
  EXPECT_EQ(learned.parameters().size(), 3U * 7 * 2 + 2);
  EXPECT_EQ(learned.parameters().back().name, "lambda_gnn");
  EXPECT_FALSE(learned.parameters().back().decay);
}

/// A known fault of the published code: "1" matched layers 10 and 11 too.
TEST(Lora, InjectionLayersAreExactIndices) {
  LlamaConfig model = tiny_config();
  model.layers = 12;
  LoraConfig config;
  config.inject_layers = {1};
  const LoraAdapters adapters(model, ModelSlice::whole(model), config, kFp32, 1);
  for (std::int64_t layer = 0; layer < 12; ++layer)
    EXPECT_EQ(adapters.injects(layer), layer == 1) << layer;
}

TEST(Lora, StartsAsPeftDoes) {
  const LlamaConfig model = tiny_config();
  const LoraAdapters one(model, ModelSlice::whole(model), all_targets(), kFp32, 1),
      same(model, ModelSlice::whole(model), all_targets(), kFp32, 1),
      other(model, ModelSlice::whole(model), all_targets(), kFp32, 2);
  std::set<double> firsts;
  for (std::size_t i = 0; i < one.parameters().size(); ++i) {
    const at::Tensor value = one.parameters()[i].value.detach();
    EXPECT_TRUE(value.equal(same.parameters()[i].value));
    if (one.parameters()[i].name.ends_with("lora_B.weight")) {
      EXPECT_EQ(value.abs().max().item<double>(), 0);
      continue;
    }
    EXPECT_FALSE(value.equal(other.parameters()[i].value));
    const double bound = 1 / std::sqrt(static_cast<double>(value.size(1)));
    EXPECT_LE(value.abs().max().item<double>(), bound);
    EXPECT_NEAR(value.std().item<double>(), bound / std::sqrt(3.0), 0.1 * bound);
    EXPECT_TRUE(firsts.insert(value.flatten()[0].item<double>()).second)
        << "two factors start alike";
  }
}

TEST(Lora, RefusesBadConfigurations) {
  const auto refuses = [](auto change, const char* part) {
    LoraConfig config;
    change(config);
    try {
      LoraAdapters(tiny_config(), ModelSlice::whole(tiny_config()), config, kFp32, 1);
      ADD_FAILURE() << part << ": accepted";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuses([](LoraConfig& c) { c.rank = 0; }, "--lora.rank 0");
  refuses([](LoraConfig& c) { c.rank = 1 << 20; }, "--lora.rank");
  refuses([](LoraConfig& c) { c.alpha = std::nan(""); }, "--lora.alpha");
  refuses([](LoraConfig& c) { c.dropout = 1; }, "--lora.dropout 1");
  refuses([](LoraConfig& c) { c.targets = {"q_proj", "Q"}; }, "--lora.targets Q");
  refuses([](LoraConfig& c) { c.inject_layers = {3}; }, "layers 0 to 2");
  refuses([](LoraConfig& c) { c.inject_layers = {-1}; }, "--inject.layers -1");
}

}  // namespace
}  // namespace graphlora
