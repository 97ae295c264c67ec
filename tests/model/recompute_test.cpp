// With activation recompute a step has the gradients it has without (llm_memory_test: and less
// memory).
#include "model/recompute.hpp"

#include <gtest/gtest.h>

#include "core/rng.hpp"
#include "llm_fixture.hpp"
#include "support/rank_main.hpp"

namespace graphlora {
namespace {

using testing::cast;
using testing::Example;
using testing::pack_of;
using testing::random_weights;
using testing::relative_error;
using testing::tiny_config;

constexpr std::int64_t kRank = 4;

struct Case {
  const char* name;
  const char* precision;
  std::vector<std::int64_t> inject;
  bool learn_lambda, projector;
};

/// Scores, graph_ratio's sums and every gradient of a step of two micro-batches.
struct Step {
  std::vector<at::Tensor> scores, adapters, lambdas, anchors;
  at::Tensor ratio;
};

std::vector<Example> examples(const std::vector<std::int64_t>& lengths, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<Example> all;
  for (const std::int64_t length : lengths) {
    Example e;
    for (std::int64_t i = 0; i < length; ++i)
      e.tokens.push_back(static_cast<std::int64_t>(random.below(300)));
    e.anchors = {length / 3, length - 2};
    e.stream = static_cast<std::int64_t>(random.below(1000));
    all.push_back(e);
  }
  return all;
}

Step run(const Case& c, const LlamaConfig& config, bool recompute) {
  const Precision precision = Precision::parse(c.precision);
  at::manual_seed(1);
  LoraConfig lora;
  lora.rank = kRank;
  lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  lora.inject_layers = c.inject;
  lora.learn_lambda = c.learn_lambda;
  lora.lambda_lora = 0.9;
  lora.lambda_gnn = 0.7;
  GraphLora model(config, cast(random_weights(config, at::kDouble), precision.activation), lora,
                  precision, 3, Score::margin);
  {
    const at::NoGradGuard no_grad;
    for (const Parameter& p : model.adapters().parameters()) {
      if (p.name.ends_with("lora_B.weight")) p.value.copy_(at::randn(p.value.sizes()) * 0.1);
    }
  }
  model.set_recompute(recompute);
  AnchorRows anchors;
  if (c.projector)
    anchors.embedding_MH =
        at::randn({10, config.hidden_size}).to(precision.parameter).requires_grad_();
  anchors.z_Mr = (at::randn({10, kRank}) * 0.3).to(precision.parameter).requires_grad_();

  Step step;
  const DropoutKey key{0.3, 21, 4};
  std::int64_t first_anchor = 0;
  for (const auto& lengths : {std::vector<std::int64_t>{17, 40, 5}, {33, 12}}) {
    at::Tensor loss;
    {
      // The pack does not outlive its forward, as in a training step.
      const Pack pack = pack_of(examples(lengths, 7 + lengths.size()), first_anchor);
      first_anchor += pack.anchor_row_A.size(0);
      step.scores.push_back(model.forward(pack, anchors, key));
      const auto weights = at::arange(1, step.scores.back().size(0) + 1);
      loss = (step.scores.back() * weights).sum();
    }
    loss.backward();
  }
  for (const Parameter& p : model.adapters().parameters())
    (p.placement == Placement::lambda ? step.lambdas : step.adapters).push_back(p.value.grad());
  if (c.projector) step.anchors.push_back(anchors.embedding_MH.grad());
  step.anchors.push_back(anchors.z_Mr.grad());
  step.ratio = model.take_ratio_sums();
  return step;
}

class Recompute : public ::testing::TestWithParam<Case> {};

TEST_P(Recompute, GradientsAreThoseWithout) {
  const Case& c = GetParam();
  LlamaConfig config = tiny_config();
  config.layers = 4;
  const Step plain = run(c, config, false), again = run(c, config, true);
  const auto equal = [](const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_TRUE(a[i].defined() && b[i].defined()) << i;
      EXPECT_TRUE(at::equal(a[i], b[i])) << i << ": " << relative_error(a[i], b[i]);
      EXPECT_GT(b[i].abs().max().item<double>(), 0) << i;
    }
  };
  equal(again.scores, plain.scores);
  equal(again.adapters, plain.adapters);
  EXPECT_TRUE(at::equal(again.ratio, plain.ratio));
  if (c.inject.size() == 1) {
    equal(again.anchors, plain.anchors);
    equal(again.lambdas, plain.lambdas);
    return;
  }
  // Several layers add to z and the λ: in another order.
  constexpr double kTolerance = 1e-13;
  ASSERT_EQ(again.anchors.size(), plain.anchors.size());
  for (std::size_t i = 0; i < plain.anchors.size(); ++i)
    EXPECT_LT(relative_error(again.anchors[i], plain.anchors[i]), kTolerance);
  ASSERT_EQ(again.lambdas.size(), c.learn_lambda ? 2U : 0U);
  for (std::size_t i = 0; i < plain.lambdas.size(); ++i)
    EXPECT_LT(relative_error(again.lambdas[i], plain.lambdas[i]), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Cases, Recompute,
                         ::testing::Values(Case{"fp64", "fp64", {1}, false, true},
                                           Case{"fp32", "fp32", {1}, false, true},
                                           Case{"bf16", "bf16", {1}, false, true},
                                           Case{"learned", "fp64", {1}, true, true},
                                           Case{"all_layers", "fp64", {0, 1, 2, 3}, true, true},
                                           Case{"without_projector", "fp64", {2}, true, false}),
                         [](const auto& info) { return std::string(info.param.name); });

/// Evaluation has no backward to recompute for.
TEST(RecomputeInEvaluation, IsTheSame) {
  const LlamaConfig config = tiny_config();
  GraphLora model(config, random_weights(config, at::kDouble), {}, Precision::parse("fp64"), 1,
                  Score::margin);
  const Pack pack = pack_of(examples({12, 9}, 3));
  const at::NoGradGuard no_grad;
  const at::Tensor plain = model.forward(pack, {}, {});
  model.set_recompute(true);
  EXPECT_TRUE(at::equal(model.forward(pack, {}, {}), plain));
}

}  // namespace
}  // namespace graphlora
