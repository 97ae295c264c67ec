// The predicted memory of a step against what a step of this process takes.
#include "model/llm_memory.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "core/memory.hpp"
#include "core/rng.hpp"
#include "llm_fixture.hpp"
#include "peak_memory.hpp"
#include "support/rank_main.hpp"

namespace graphlora {
namespace {

using testing::Example;
using testing::pack_of;
using testing::random_weights;

/// SmolLM2-135M with fewer layers, so that a step takes seconds.
LlamaConfig smollm2(std::int64_t layers) {
  LlamaConfig c = testing::tiny_config();
  c.vocab_size = 4096;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.layers = layers;
  c.heads = 9;
  c.kv_heads = 3;
  c.head_dim = 64;
  c.max_positions = 8192;
  return c;
}

LlamaConfig llama7b() {
  LlamaConfig c = testing::tiny_config();
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.layers = 32;
  c.heads = 32;
  c.kv_heads = 32;
  c.head_dim = 128;
  c.max_positions = 4096;
  return c;
}

Pack pack_of_length(std::int64_t tokens, std::int64_t vocabulary) {
  SplitMix64 random(3);
  std::vector<Example> examples;
  for (std::int64_t begin = 0; begin < tokens; begin += 128) {
    Example e;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(128, tokens - begin); ++i)
      e.tokens.push_back(static_cast<std::int64_t>(random.below(vocabulary)));
    e.anchors = {30, 60};
    e.stream = begin;
    examples.push_back(e);
  }
  return pack_of(examples);
}

/// Bytes by which a forward and backward raise this process' resident set.
std::int64_t measured(const LlamaConfig& config, const LoraConfig& lora, const Precision& precision,
                      std::int64_t tokens, bool recompute) {
  at::manual_seed(2);
  GraphLora model(config, random_weights(config, precision.activation), lora, precision, 1,
                  Score::margin);
  model.set_recompute(recompute);
  const Pack pack = pack_of_length(tokens, config.vocab_size);
  const auto rows = pack.anchor_row_A.size(0);
  const AnchorRows anchors{
      at::zeros({rows, config.hidden_size}, precision.parameter_options()).requires_grad_(),
      at::zeros({rows, lora.rank}, precision.parameter_options()).requires_grad_()};
  // The libraries' own buffers and the gradients come with the first step.
  const Pack small = pack_of_length(128, config.vocab_size);
  model.forward(small, anchors, {0.05, 1, 1}).sum().backward();
  release_free_memory();
  const std::size_t before = testing::reset_peak_memory();
  model.forward(pack, anchors, {0.05, 1, 1}).sum().backward();
  return static_cast<std::int64_t>(testing::peak_memory() - before);
}

struct Case {
  const char* name;
  const char* precision;
  std::vector<std::string> targets;
  std::int64_t tokens;
  bool recompute;
};

class LlmMemoryTest : public ::testing::TestWithParam<Case> {};

TEST_P(LlmMemoryTest, PredictsWhatAStepTakes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "a sanitizer's allocator keeps what is freed";
#endif
  // Else the heap keeps freed blocks between those in use: another hundred MiB at these sizes.
  const char* tunables = std::getenv("GLIBC_TUNABLES");
  if (tunables == nullptr || std::string(tunables).find("mmap_threshold") == std::string::npos)
    GTEST_SKIP() << "the test llm_memory.np1 measures with tensors in maps of their own";
  const Case& c = GetParam();
  const LlamaConfig config = smollm2(8);
  const Precision precision = Precision::parse(c.precision);
  LoraConfig lora;
  lora.targets = c.targets;
  lora.inject_layers = {4};
  LlmStep step;
  step.tokens = c.tokens;
  step.recompute = c.recompute;
  const LlmMemory memory =
      predict_llm_memory(config, ModelSlice::whole(config), lora, precision, step);
  const auto predicted = static_cast<double>(memory.activations + memory.workspace);
  const auto taken = static_cast<double>(measured(config, lora, precision, c.tokens, c.recompute));
  constexpr double kMiB = 1 << 20;
  std::cout << fmt::format("{}: predicted {:.1f} MiB, taken {:.1f} MiB: {:+.1f} %\n", c.name,
                           predicted / kMiB, taken / kMiB, 100 * (predicted / taken - 1));
  EXPECT_NEAR(predicted / taken, 1, 0.1);
}

const std::vector<std::string> kDefaultTargets{"q_proj", "v_proj"},
    kAllTargets(kTargetNames.begin(), kTargetNames.end());

INSTANTIATE_TEST_SUITE_P(
    Cases, LlmMemoryTest,
    ::testing::Values(Case{"bf16_1024", "bf16", kDefaultTargets, 1024, false},
                      Case{"bf16_4096", "bf16", kDefaultTargets, 4096, false},
                      Case{"bf16_4096_all", "bf16", kAllTargets, 4096, false},
                      Case{"fp32_2048", "fp32", kDefaultTargets, 2048, false},
                      Case{"bf16_4096_recompute", "bf16", kDefaultTargets, 4096, true},
                      Case{"bf16_4096_all_recompute", "bf16", kAllTargets, 4096, true},
                      Case{"fp32_2048_recompute", "fp32", kDefaultTargets, 2048, true}),
    [](const auto& info) { return std::string(info.param.name); });

/// Against numbers worked out by hand: 4·4096² + 3·4096·11008 weights and two norms a layer, 8 + 8
/// rows of 4096 a q or v adapter.
TEST(LlmMemory, OfSevenBillionParameters) {
  const LlamaConfig config = llama7b();
  const LoraConfig lora;
  LlmStep step;
  step.tokens = 4000;
  const Precision bf16 = Precision::parse("bf16");
  const LlmMemory whole = predict_llm_memory(config, ModelSlice::whole(config), lora, bf16, step);
  EXPECT_EQ(whole.weights,
            2 * (32 * (4 * 4096LL * 4096 + 3 * 4096LL * 11008 + 2 * 4096) + 3 * 4096));
  EXPECT_EQ(whole.packed, 0);
  EXPECT_EQ(whole.embedding, 2 * 32000LL * 4096);
  EXPECT_EQ(whole.adapters, 4 * 4 * 32 * 2 * 8 * (4096 + 4096LL));
  step.packed = true;
  EXPECT_EQ(predict_llm_memory(config, ModelSlice::whole(config), lora, bf16, step).packed,
            2 * 2 * 32 * (4 * 4096LL * 4096 + 3 * 4096LL * 11008));
  step.packed = false;
  std::cout << "T  tokens recompute  weights embed adapters activations workspace  total (GiB)\n";
  for (const int ranks : {1, 2, 4, 8}) {
    std::int64_t weights = 0, heads = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const ModelSlice slice = ModelSlice::of(config, ranks, rank);
      const LlmMemory part = predict_llm_memory(config, slice, lora, bf16, step);
      weights += part.weights;
      heads += slice.heads;
      EXPECT_LT(part.weights, 1.05 * static_cast<double>(whole.weights) / ranks);
    }
    EXPECT_EQ(heads, config.heads);
    // All ranks' slices are the model; only norms and the head's rows are on each.
    const std::int64_t replicated = 2 * 4096LL * (32 * 2 + 3);
    EXPECT_EQ(weights, whole.weights + (ranks - 1) * replicated);
    for (const std::int64_t tokens : {1000, 4000, 16000}) {
      for (const bool recompute : {false, true}) {
        step.tokens = tokens;
        step.recompute = recompute;
        const LlmMemory m =
            predict_llm_memory(config, ModelSlice::of(config, ranks, 0), lora, bf16, step);
        constexpr double kGiB = 1 << 30;
        std::cout << fmt::format(
            "{}  {:6} {:9}  {:7.2f} {:5.2f} {:8.3f} {:11.2f} {:9.2f} {:6.2f}\n", ranks, tokens,
            recompute, m.weights / kGiB, m.embedding / kGiB, m.adapters / kGiB,
            m.activations / kGiB, m.workspace / kGiB, m.total() / kGiB);
      }
    }
    step.tokens = 4000;
    step.recompute = false;
  }
}

}  // namespace
}  // namespace graphlora
