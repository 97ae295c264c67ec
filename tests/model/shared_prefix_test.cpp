// A pack whose prompts share their beginnings gives the scores and gradients of one in which every
// prompt stands by itself: every family, with dropout, with recompute, in trees of any shape.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "core/rng.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::cast;
using testing::random_weights;
using testing::relative_error;
using testing::tiny_config;

constexpr std::int64_t kRank = 4, kUsers = 5;

/// Users of 1, 4, 2, 1 and 7 examples, mixed: a user's history and anchor, then a title of its own
/// length and the item's anchor. `common`: tokens that all of them begin with; `nested`: titles of
/// one user that begin alike.
struct Prompts {
  std::vector<Prompt> prompts;
  std::vector<std::int64_t> streams;
  std::int64_t nodes = kUsers;

  Prompts(std::int64_t common, bool nested) {
    SplitMix64 random(17);
    const auto token = [&] { return static_cast<std::int32_t>(random.below(300)); };
    const std::vector<std::int32_t> start = drawn(common, token);
    std::vector<std::vector<std::int32_t>> histories, titles;
    for (std::int64_t user = 0; user < kUsers; ++user) {
      histories.push_back(drawn(9 + 11 * user, token));
      titles.push_back(drawn(5, token));
    }
    for (std::int64_t i = 0; i < 7; ++i) {
      for (std::int64_t user = 0; user < kUsers; ++user) {
        constexpr std::array<std::int64_t, kUsers> kExamples{1, 4, 2, 1, 7};
        if (i >= kExamples[user]) continue;
        Prompt& prompt = prompts.emplace_back();
        prompt.row = 100 + std::ssize(prompts);
        const auto append = [&](const std::vector<std::int32_t>& tokens) {
          prompt.tokens.insert(prompt.tokens.end(), tokens.begin(), tokens.end());
        };
        const auto anchor = [&](std::int64_t node) {
          prompt.anchors.push_back({static_cast<std::int32_t>(prompt.tokens.size()), node});
          prompt.tokens.push_back(-1);
        };
        append(start);
        append(histories[user]);
        anchor(user);
        append({7, 8});
        prompt.private_from = static_cast<std::int32_t>(prompt.tokens.size());
        if (nested && i % 3 != 0) append(titles[user]);
        append(drawn(1 + i * i, token));
        anchor(nodes++);
        append({11, 12});
        streams.push_back(1000 + user);
      }
    }
  }

 private:
  template <class Draw>
  static std::vector<std::int32_t> drawn(std::int64_t count, const Draw& token) {
    std::vector<std::int32_t> tokens;
    while (std::ssize(tokens) < count) tokens.push_back(token());
    return tokens;
  }
};

struct Result {
  at::Tensor score, loss, ratio;
  std::vector<at::Tensor> gradients;  // of adapters and λ, then of the nodes' embeddings and z
  std::int64_t tokens = 0;
};

/// A step over all prompts in packs of `budget` tokens.
Result run(const LlamaConfig& config, const Prompts& all, Sharing sharing, double dropout,
           bool recompute, std::int64_t budget, const Precision& precision) {
  at::manual_seed(1);
  LoraConfig lora;
  lora.rank = kRank;
  lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  lora.inject_layers = {0, 2};
  lora.learn_lambda = true;
  lora.lambda_lora = 0.9;
  lora.lambda_gnn = 0.7;
  GraphLora model(config, cast(random_weights(config, at::kDouble), precision.activation), lora,
                  precision, 3, Score::margin);
  {
    const at::NoGradGuard no_grad;
    for (const Parameter& p : model.adapters().parameters())
      if (p.name.ends_with("lora_B.weight")) p.value.copy_(at::randn(p.value.sizes()) * 0.1);
  }
  model.set_recompute(recompute);
  const auto node_rows = [&](std::int64_t width) {
    return at::randn({all.nodes, width}, at::kDouble).to(precision.parameter).requires_grad_();
  };
  const at::Tensor embedding_NH = node_rows(config.hidden_size), z_Nr = node_rows(kRank);

  Result result;
  const std::vector<Pack> packs = make_packs(all.prompts, all.streams, budget, sharing);
  std::vector<std::int64_t> nodes;
  for (const Pack& pack : packs) {
    result.tokens += pack.tokens();
    for (const Pack::Anchor& a : pack.anchors) nodes.push_back(a.node);
  }
  const at::Tensor rows = at::tensor(nodes, at::kLong);
  const AnchorRows anchors{embedding_NH.index_select(0, rows), z_Nr.index_select(0, rows)};
  const at::Tensor weight = at::randn({std::ssize(all.prompts)}, at::kDouble);
  result.score = at::zeros_like(weight);
  std::vector<at::Tensor> losses;
  for (const Pack& pack : packs) {
    const at::Tensor score_S = model.forward(pack, anchors, {dropout, 21, 4});
    const std::vector<std::int64_t> examples(pack.example_S.begin(), pack.example_S.end());
    const at::Tensor place_S = at::tensor(examples, at::kLong);
    result.score.index_copy_(0, place_S, score_S.detach().to(at::kDouble));
    losses.push_back((score_S.tanh() * weight.index_select(0, place_S)).sum());
  }
  result.loss = at::stack(losses).sum();
  result.loss.backward();
  result.ratio = model.take_ratio_sums();
  for (const Parameter& p : model.adapters().parameters())
    result.gradients.push_back(p.value.grad());
  result.gradients.push_back(embedding_NH.grad());
  result.gradients.push_back(z_Nr.grad());
  return result;
}

void expect_equal(const Result& shared, const Result& plain, double tolerance) {
  EXPECT_LT(shared.tokens, plain.tokens);
  EXPECT_LT(relative_error(shared.score, plain.score), tolerance);
  EXPECT_LT(relative_error(shared.loss.detach(), plain.loss.detach()), tolerance);
  EXPECT_LT(relative_error(shared.ratio, plain.ratio), tolerance);
  ASSERT_EQ(shared.gradients.size(), plain.gradients.size());
  for (std::size_t i = 0; i < plain.gradients.size(); ++i)
    EXPECT_LT(relative_error(shared.gradients[i], plain.gradients[i]), tolerance) << i;
}

const Precision kFp64{at::kDouble, at::kDouble};
constexpr std::int64_t kWhole = 1 << 20;

class SharedPrefix : public ::testing::TestWithParam<std::string> {};

TEST_P(SharedPrefix, EqualsPromptsByThemselves) {
  const LlamaConfig config = tiny_config(GetParam());
  const Prompts prompts(0, false);
  for (const bool recompute : {false, true}) {
    for (const double dropout : {0.0, 0.3}) {
      const Result plain = run(config, prompts, Sharing::none, dropout, recompute, kWhole, kFp64);
      for (const std::int64_t budget : {kWhole, std::int64_t{150}}) {
        expect_equal(run(config, prompts, Sharing::training, dropout, recompute, budget, kFp64),
                     plain, 1e-9);
      }
    }
  }
}

/// What all users begin with, a user's history, a title's beginning: segments three deep.
TEST_P(SharedPrefix, NestedBeginningsEqualPromptsByThemselves) {
  const LlamaConfig config = tiny_config(GetParam());
  const Prompts prompts(13, true);
  const Result plain = run(config, prompts, Sharing::none, 0, false, kWhole, kFp64);
  const Result shared = run(config, prompts, Sharing::inference, 0, false, kWhole, kFp64);
  expect_equal(shared, plain, 1e-9);
  EXPECT_LT(shared.tokens, run(config, prompts, Sharing::training, 0, false, kWhole, kFp64).tokens);
}

TEST_P(SharedPrefix, IsCloseInOtherPrecisions) {
  const LlamaConfig config = tiny_config(GetParam());
  const Prompts prompts(13, true);
  for (const auto& [name, tolerance] : {std::pair{"fp32", 1e-5}, {"bf16", 0.1}}) {
    const Precision precision = Precision::parse(name);
    const Result plain = run(config, prompts, Sharing::none, 0, false, kWhole, precision);
    const Result shared = run(config, prompts, Sharing::inference, 0, false, kWhole, precision);
    EXPECT_LT(relative_error(shared.score, plain.score), tolerance) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SharedPrefix, ::testing::ValuesIn(testing::families()),
                         [](const auto& info) { return info.param; });

/// Dropout streams before `private_from` are what makes a shared beginning exact: with a stream of
/// its own every example drops something else.
TEST(SharedPrefixDropout, WithoutCommonStreamsNothingIsShared) {
  Prompts prompts(0, false);
  for (std::size_t i = 0; i < prompts.streams.size(); ++i)
    prompts.streams[i] = prompts.prompts[i].row;
  const LlamaConfig config = tiny_config();
  const Result plain = run(config, prompts, Sharing::none, 0.3, false, kWhole, kFp64);
  const Result shared = run(config, prompts, Sharing::training, 0.3, false, kWhole, kFp64);
  EXPECT_EQ(shared.tokens, plain.tokens);
  EXPECT_LT(relative_error(shared.score, plain.score), 1e-9);
}

}  // namespace
}  // namespace graphlora
