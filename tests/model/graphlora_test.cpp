#include "model/graphlora.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "llm_fixture.hpp"
#include "model/decoder_layer.hpp"
#include "peak_memory.hpp"
#include "support/rank_main.hpp"

namespace graphlora {
namespace {

using testing::cast;
using testing::Example;
using testing::pack_of;
using testing::random_weights;
using testing::relative_error;
using testing::tiny_config;

const Precision kFp64{at::kDouble, at::kDouble}, kFp32{at::kFloat, at::kFloat},
    kBf16{at::kBFloat16, at::kFloat};

LoraConfig lora_config(std::vector<std::int64_t> inject_layers) {
  LoraConfig config;
  config.rank = 4;
  config.targets.assign(kTargetNames.begin(), kTargetNames.end());
  config.inject_layers = std::move(inject_layers);
  config.lambda_gnn = 0.7;
  return config;
}

/// Model with adapters whose B is not zero.
std::unique_ptr<GraphLora> make_model(const LlamaConfig& config, const BaseWeights& weights,
                                      const LoraConfig& lora, const Precision& precision) {
  auto model = std::make_unique<GraphLora>(config, cast(weights, precision.activation), lora,
                                           precision, 3, Score::margin);
  const at::NoGradGuard no_grad;
  at::manual_seed(99);
  for (const Parameter& p : model->adapters().parameters()) {
    if (p.name.ends_with("lora_B.weight")) p.value.copy_(at::randn(p.value.sizes()) * 0.1);
  }
  return model;
}

std::vector<Example> random_examples(const std::vector<std::int64_t>& lengths, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<Example> examples;
  for (const std::int64_t length : lengths) {
    Example e;
    for (std::int64_t i = 0; i < length; ++i)
      e.tokens.push_back(static_cast<std::int64_t>(random.below(300)));
    e.anchors = {length / 3, length - 2};
    for (const std::int64_t a : e.anchors) e.tokens[a] = 0;
    e.stream = static_cast<std::int64_t>(random.below(1000));
    examples.push_back(e);
  }
  return examples;
}

AnchorRows random_anchors(std::int64_t rows, std::int64_t hidden, std::int64_t rank,
                          const Precision& precision) {
  at::manual_seed(5);
  return {at::randn({rows, hidden}).to(precision.parameter).requires_grad_(true),
          (at::randn({rows, rank}) * 0.3).to(precision.parameter).requires_grad_(true)};
}

void clear_gradients(const std::vector<Parameter>& parameters, const AnchorRows& anchors) {
  for (const Parameter& p : parameters) p.value.mutable_grad() = at::Tensor();
  anchors.embedding_MH.mutable_grad() = at::Tensor();
  anchors.z_Mr.mutable_grad() = at::Tensor();
}

/// All gradients, one behind the other.
std::vector<at::Tensor> gradients_of(GraphLora& model, const AnchorRows& anchors) {
  std::vector<at::Tensor> all;
  for (const Parameter& p : model.adapters().parameters()) {
    all.push_back(p.value.grad().defined() ? p.value.grad().clone() : at::zeros_like(p.value));
  }
  all.push_back(anchors.embedding_MH.grad().clone());
  all.push_back(anchors.z_Mr.grad().clone());
  clear_gradients(model.adapters().parameters(), anchors);
  return all;
}

TEST(GraphLora, PackedEqualsOneByOne) {
  at::manual_seed(1);
  const LlamaConfig config = tiny_config();
  const auto model =
      make_model(config, random_weights(config, at::kDouble), lora_config({0, 2}), kFp64);
  const auto examples = random_examples({17, 40, 5, 33}, 7);
  const AnchorRows anchors = random_anchors(8, config.hidden_size, 4, kFp64);
  const at::Tensor weights = at::randn({4}, at::kDouble);
  for (const double probability : {0.0, 0.3}) {
    const DropoutKey key{probability, 21, 4};
    const at::Tensor packed = model->forward(pack_of(examples), anchors, key);
    (packed * weights).sum().backward();
    const auto expected = gradients_of(*model, anchors);
    std::vector<at::Tensor> scores;
    for (std::int64_t i = 0; i < 4; ++i) {
      scores.push_back(model->forward(pack_of({examples[i]}, 2 * i), anchors, key));
      (scores.back() * weights[i]).sum().backward();
    }
    EXPECT_LT(relative_error(at::cat(scores), packed), 1e-12);
    const auto gradients = gradients_of(*model, anchors);
    for (std::size_t k = 0; k < gradients.size(); ++k)
      EXPECT_LT(relative_error(gradients[k], expected[k]), 1e-12) << k;
  }
}

TEST(GraphLora, Bf16IsCloseToFp32) {
  at::manual_seed(2);
  const LlamaConfig config = tiny_config();
  const BaseWeights weights =
      cast(random_weights(config, at::kFloat), at::kBFloat16);  // the same values for both
  const auto examples = random_examples({30, 25, 60}, 8);
  std::vector<at::Tensor> scores, z_gradients;
  for (const Precision& precision : {kFp32, kBf16}) {
    const auto model = make_model(config, weights, lora_config({1}), precision);
    const AnchorRows anchors = random_anchors(6, config.hidden_size, 4, precision);
    scores.push_back(model->forward(pack_of(examples), anchors, {}));
    scores.back().sum().backward();
    z_gradients.push_back(anchors.z_Mr.grad());
  }
  EXPECT_EQ(scores[1].scalar_type(), at::kFloat);
  EXPECT_LT(relative_error(scores[1], scores[0]), 0.05);
  EXPECT_LT(relative_error(z_gradients[1], z_gradients[0]), 0.1);
}

/// A known fault of the published code: anchors of a batch paired with the wrong nodes.
TEST(GraphLora, AnchorsArePairedByTheirRecordedIndex) {
  at::manual_seed(3);
  const LlamaConfig config = tiny_config();
  const auto model =
      make_model(config, random_weights(config, at::kDouble), lora_config({1}), kFp64);
  const auto examples = random_examples({20, 20, 20}, 9);
  const AnchorRows anchors = random_anchors(6, config.hidden_size, 4, kFp64);
  const at::Tensor expected = model->forward(pack_of(examples), anchors, {});
  Pack shuffled = pack_of(examples);
  const at::Tensor order = at::tensor({4, 0, 5, 2, 1, 3}, at::kLong);
  shuffled.anchor_token_A = shuffled.anchor_token_A.index_select(0, order);
  shuffled.anchor_row_A = shuffled.anchor_row_A.index_select(0, order);
  EXPECT_LT(relative_error(model->forward(shuffled, anchors, {}), expected), 1e-13);
  Pack wrong = pack_of(examples);
  wrong.anchor_row_A = order;
  EXPECT_GT(relative_error(model->forward(wrong, anchors, {}), expected), 1e-3);
}

/// A known fault of the published code: no α/r at the injection layer. With λ_lora = 1 and z = 0 an
/// injection layer must be like any other, and twice the α must act like twice every B.
TEST(GraphLora, TheInjectionLayerIsScaledLikeTheOthers) {
  at::manual_seed(4);
  const LlamaConfig config = tiny_config();
  const BaseWeights weights = random_weights(config, at::kDouble);
  const auto examples = random_examples({20, 11}, 10);
  const AnchorRows anchors = random_anchors(4, config.hidden_size, 4, kFp64);
  const AnchorRows no_graph{anchors.embedding_MH, at::zeros_like(anchors.z_Mr)};
  const auto injecting = make_model(config, weights, lora_config({0, 1, 2}), kFp64);
  const auto plain = make_model(config, weights, lora_config({}), kFp64);
  EXPECT_LT(relative_error(injecting->forward(pack_of(examples), no_graph, {}),
                           plain->forward(pack_of(examples), anchors, {})),
            1e-14);
  LoraConfig twice = lora_config({0, 1, 2});
  twice.alpha *= 2;
  const auto scaled = make_model(config, weights, twice, kFp64);
  const auto doubled = make_model(config, weights, lora_config({0, 1, 2}), kFp64);
  {
    const at::NoGradGuard no_grad;
    for (const Parameter& p : doubled->adapters().parameters()) {
      if (p.name.ends_with("lora_B.weight")) p.value.mul_(2);
    }
  }
  EXPECT_LT(relative_error(scaled->forward(pack_of(examples), anchors, {}),
                           doubled->forward(pack_of(examples), anchors, {})),
            1e-13);
}

TEST(GraphLora, LastLayerAtTheScoredTokensEqualsTheFullOne) {
  at::manual_seed(5);
  const LlamaConfig config = tiny_config();
  const BaseWeights weights = random_weights(config, at::kDouble);
  const auto model = make_model(config, weights, lora_config({2}), kFp64);
  const RotaryTable rotary = RotaryTable::make(64, config.head_dim, config.rope_theta, at::kDouble);
  const ModelSlice whole = ModelSlice::whole(config);
  const Decoder decoder(config, whole, nullptr, weights, nullptr, model->adapters(), rotary);
  const Pack pack = pack_of(random_examples({9, 31}, 11));
  const at::Tensor z = at::randn({4, 4}, at::kDouble), last = pack.last_token_S;
  const std::vector<std::int64_t> scored{last[0].item<std::int64_t>(),
                                         last[1].item<std::int64_t>()};
  DecoderInputs inputs{pack.segments, {pack.segments, scored}, last};
  inputs.all = {pack.streams_T, pack.positions_T, pack.anchor_token_A, z};
  inputs.dropout = {0.2, 1, 1};
  inputs.scored = {pack.streams_T.index_select(0, last), pack.positions_T.index_select(0, last),
                   at::empty({0}, at::kLong), z.narrow(0, 0, 0)};
  const at::Tensor x = at::randn({40, config.hidden_size}, at::kDouble).requires_grad_(true),
                   w = at::randn({2, config.hidden_size}, at::kDouble);
  const at::Tensor full = decoder.layer(2, x, inputs).index_select(0, last),
                   some = decoder.last_layer(x, inputs);
  EXPECT_LT(relative_error(some, full), 1e-13);
  const auto expected = torch::autograd::grad({(full * w).sum()}, {x}),
             gradients = torch::autograd::grad({(some * w).sum()}, {x});
  EXPECT_LT(relative_error(gradients[0], expected[0]), 1e-13);
}

TEST(GraphLora, BackwardStopsWhereNothingTrainableLiesBelow) {
  at::manual_seed(6);
  const LlamaConfig config = tiny_config();
  const auto model =
      make_model(config, random_weights(config, at::kDouble), lora_config({}), kFp64);
  for (const Parameter& p : model->adapters().parameters()) {
    if (p.name.find("layers.2.") == std::string::npos) p.value.set_requires_grad(false);
  }
  const Pack pack = pack_of(random_examples({12}, 12));
  model->forward(pack, {}, {}).sum().backward();
  for (const Parameter& p : model->adapters().parameters()) {
    EXPECT_EQ(p.value.grad().defined(), p.name.find("layers.2.") != std::string::npos) << p.name;
  }
  for (const Parameter& p : model->adapters().parameters()) p.value.set_requires_grad(false);
  EXPECT_FALSE(model->forward(pack, {}, {}).requires_grad());
}

TEST(GraphLora, RatioSumsBelongToTrainingForwardsOnly) {
  const LlamaConfig config = tiny_config();
  const auto model =
      make_model(config, random_weights(config, at::kDouble), lora_config({0, 1}), kFp64);
  const AnchorRows anchors = random_anchors(2, config.hidden_size, 4, kFp64);
  const Pack pack = pack_of(random_examples({12}, 13));
  {
    const at::NoGradGuard no_grad;
    model->forward(pack, anchors, {});
  }
  EXPECT_EQ(model->take_ratio_sums().abs().sum().item<double>(), 0);
  model->forward(pack, anchors, {});
  const at::Tensor sums = model->take_ratio_sums();
  // Both anchors, seven adapters, two layers, each with the same z.
  EXPECT_NEAR(sums[0].item<double>(), 14 * (anchors.z_Mr * 0.7).square().sum().item<double>(),
              1e-12);
  EXPECT_GT(sums[1].item<double>(), 0);
  EXPECT_EQ(model->take_ratio_sums().abs().sum().item<double>(), 0);
}

TEST(GraphLora, RefusesPromptsTheModelCannotHold) {
  const LlamaConfig config = tiny_config();
  const auto model = make_model(config, random_weights(config, at::kFloat), lora_config({}), kFp32);
  EXPECT_THROW(model->forward(pack_of(random_examples({257}, 14)), {}, {}), ConfigError);
  EXPECT_NO_THROW(model->forward(pack_of(random_examples({256}, 14)), {}, {}));
  for (const std::int64_t token : {std::int64_t{300}, std::int64_t{-1}, std::int64_t{1} << 40}) {
    auto examples = random_examples({8}, 15);
    examples[0].tokens[4] = token;
    EXPECT_THROW(model->forward(pack_of(examples), {}, {}), DataError) << token;
  }
  const AnchorRows narrow{at::zeros({2, config.hidden_size - 1}), {}},
      few{at::zeros({1, config.hidden_size}), {}}, wide{{}, at::zeros({2, 5})};
  for (const AnchorRows& anchors : {narrow, few, wide}) {
    EXPECT_THROW(model->forward(pack_of(random_examples({8}, 16)), anchors, {}), c10::Error);
  }
}

/// A micro-batch of 4,096 tokens of SmolLM2-135M, bf16, adapters on all seven linears (what saves
/// most), under 4 GiB.
TEST(GraphLora, FourThousandTokensTrainInFourGibibytes) {
  if (test::world().size() > 1) GTEST_SKIP() << "one process is enough for a local measurement";
  LlamaConfig config = tiny_config();
  config.vocab_size = 49152;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.layers = 30;
  config.head_dim = 64;
  config.max_positions = 8192;
  const std::size_t before = testing::reset_peak_memory();
  LoraConfig lora = lora_config({15});
  lora.rank = 8;
  GraphLora model(config, random_weights(config, at::kBFloat16), lora, kBf16, 1, Score::margin);
  const AnchorRows anchors = random_anchors(32, config.hidden_size, 8, kBf16);
  const Pack pack = pack_of(random_examples(std::vector<std::int64_t>(16, 256), 17));
  model.forward(pack, anchors, {0.05, 1, 1}).sum().backward();
  EXPECT_LT(testing::peak_memory(), std::size_t{4} << 30);
  RecordProperty("peak_mebibytes", static_cast<int>(testing::peak_memory() >> 20));
  std::cout << "peak " << (testing::peak_memory() >> 20) << " MiB, " << (before >> 20)
            << " MiB before\n";
}

}  // namespace
}  // namespace graphlora
