#include "model/attention.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "attention_fixture.hpp"
#include "core/error.hpp"
#include "gradient_check.hpp"
#include "llm_fixture.hpp"
#include "peak_memory.hpp"

namespace graphlora {
namespace {

using testing::leaf;
using testing::reference_attention;
using testing::relative_error;
using testing::segments_of;
using testing::trees;

TEST(Attention, EqualsTheMaskedSoftmax) {
  at::manual_seed(1);
  for (const auto& [heads, groups, dim] :
       {std::tuple{9, 3, 4}, {4, 4, 64}, {6, 1, 20}, {1, 1, 2}}) {
    const auto segments = segments_of({1, 33, 64, 7, 110, 2});
    const at::Tensor q = at::randn({217, heads, dim}, at::kDouble) * 2,
                     k = at::randn({217, groups, dim}, at::kDouble);
    const at::Tensor v = at::randn({217, groups, dim}, at::kDouble),
                     expected = reference_attention(q, k, v, segments);
    const auto error = [&](at::ScalarType type) {
      return relative_error(attention(q.to(type), k.to(type), v.to(type), segments), expected);
    };
    EXPECT_LT(error(at::kDouble), 1e-13);
    EXPECT_LT(error(at::kFloat), 1e-5);
    EXPECT_LT(error(at::kBFloat16), 2e-2);
  }
}

TEST(Attention, Gradients) {
  at::manual_seed(2);
  const auto segments = segments_of({1, 5, 3});
  const at::Tensor q = leaf({9, 4, 3}), k = leaf({9, 2, 3}), v = leaf({9, 2, 3});
  testing::expect_gradients([&] { return std::vector{attention(q, k, v, segments)}; },
                            {{"q", q}, {"k", k}, {"v", v}});
}

TEST(Attention, GradientsOverSeveralQueryBlocksEqualAutogradOfTheDefinition) {
  at::manual_seed(3);
  const auto segments = segments_of({70, 1, 45});
  const at::Tensor q = leaf({116, 6, 8}), k = leaf({116, 2, 8}), v = leaf({116, 2, 8});
  const at::Tensor weight = at::randn({116, 6, 8}, at::kDouble);
  const auto expected =
      torch::autograd::grad({(reference_attention(q, k, v, segments) * weight).sum()}, {q, k, v});
  for (const auto& [type, tolerance] :
       {std::pair{at::kDouble, 1e-12}, {at::kFloat, 1e-5}, {at::kBFloat16, 3e-2}}) {
    const at::Tensor a = q.detach().to(type).requires_grad_(true),
                     b = k.detach().to(type).requires_grad_(true),
                     c = v.detach().to(type).requires_grad_(true);
    const auto gradients =
        torch::autograd::grad({(attention(a, b, c, segments) * weight.to(type)).sum()}, {a, b, c});
    for (int i = 0; i < 3; ++i)
      EXPECT_LT(relative_error(gradients[i], expected[i]), tolerance) << i << " " << type;
  }
}

TEST(Attention, QueriesAtSingleTokensEqualTheFullOnes) {
  at::manual_seed(4);
  const auto segments = segments_of({4, 40, 6});
  const at::Tensor q = leaf({50, 6, 5}), k = leaf({50, 3, 5}), v = leaf({50, 3, 5});
  // Not in order of the segments, not the last token of one, and one segment without a query.
  const std::vector<std::int64_t> tokens{48, 2};
  const at::Tensor rows = at::tensor(tokens), weight = at::randn({2, 6, 5}, at::kDouble);
  const at::Tensor full = attention(q, k, v, segments).index_select(0, rows);
  const at::Tensor some = attention(q.index_select(0, rows), k, v, {segments, tokens});
  EXPECT_LT(relative_error(some, full), 1e-14);
  const auto expected = torch::autograd::grad({(full * weight).sum()}, {q, k, v});
  const auto gradients = torch::autograd::grad({(some * weight).sum()}, {q, k, v});
  for (int i = 0; i < 3; ++i) EXPECT_LT(relative_error(gradients[i], expected[i]), 1e-13) << i;
}

TEST(Attention, AWindowHidesOlderKeys) {
  at::manual_seed(5);
  const auto segments = segments_of({1, 70, 3, 130});
  const at::Tensor q = leaf({204, 6, 8}), k = leaf({204, 2, 8}), v = leaf({204, 2, 8});
  const at::Tensor weight = at::randn({204, 6, 8}, at::kDouble);
  const std::vector<std::int64_t> tokens{203, 40};
  const at::Tensor rows = at::tensor(tokens);
  for (const std::int64_t window : {1, 5, 16, 31, 33, 100, 129, 130, 1000}) {
    const at::Tensor definition = reference_attention(q, k, v, segments, window);
    const at::Tensor o = attention(q, k, v, segments, window);
    EXPECT_LT(relative_error(o, definition), 1e-13) << window;
    const auto expected = torch::autograd::grad({(definition * weight).sum()}, {q, k, v});
    const auto gradients = torch::autograd::grad({(o * weight).sum()}, {q, k, v});
    for (int i = 0; i < 3; ++i)
      EXPECT_LT(relative_error(gradients[i], expected[i]), 1e-12) << i << ", window " << window;

    const at::Tensor some_weight = weight.index_select(0, rows);
    const at::Tensor full = reference_attention(q, k, v, segments, window).index_select(0, rows);
    const at::Tensor some = attention(q.index_select(0, rows), k, v, {segments, tokens}, window);
    EXPECT_LT(relative_error(some, full), 1e-13) << window;
    const auto at_rows = torch::autograd::grad({(full * some_weight).sum()}, {q, k, v});
    const auto computed = torch::autograd::grad({(some * some_weight).sum()}, {q, k, v});
    for (int i = 0; i < 3; ++i)
      EXPECT_LT(relative_error(computed[i], at_rows[i]), 1e-12) << i << ", window " << window;
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, {at::kBFloat16, 2e-2}}) {
      EXPECT_LT(relative_error(attention(q.to(type), k.to(type), v.to(type), segments, window),
                               definition),
                tolerance)
          << window;
    }
  }
}

TEST(Attention, SharedKeysEqualTheDefinition) {
  at::manual_seed(6);
  const auto segments = trees();
  const std::int64_t tokens = segments.back().begin + segments.back().length;
  const at::Tensor q = leaf({tokens, 6, 8}), k = leaf({tokens, 2, 8}), v = leaf({tokens, 2, 8});
  const at::Tensor weight = at::randn({tokens, 6, 8}, at::kDouble);
  for (const std::int64_t window : {0, 1, 5, 16, 40, 70, 1000}) {
    const at::Tensor definition = reference_attention(q, k, v, segments, window);
    const auto expected = torch::autograd::grad({(definition * weight).sum()}, {q, k, v});
    for (const auto& [type, forward, backward] : {std::tuple{at::kDouble, 1e-13, 1e-12},
                                                  {at::kFloat, 1e-5, 1e-5},
                                                  {at::kBFloat16, 2e-2, 3e-2}}) {
      const at::Tensor a = q.detach().to(type).requires_grad_(true),
                       b = k.detach().to(type).requires_grad_(true),
                       c = v.detach().to(type).requires_grad_(true);
      const at::Tensor o = attention(a, b, c, segments, window);
      EXPECT_LT(relative_error(o, definition), forward) << type << ", window " << window;
      const auto gradients = torch::autograd::grad({(o * weight.to(type)).sum()}, {a, b, c});
      for (int i = 0; i < 3; ++i) {
        EXPECT_LT(relative_error(gradients[i], expected[i]), backward)
            << i << " " << type << ", window " << window;
      }
    }
  }
}

TEST(Attention, QueriesAtSingleTokensSeeSharedKeys) {
  at::manual_seed(7);
  const auto segments = trees();
  const std::int64_t size = segments.back().begin + segments.back().length;
  std::vector<std::int64_t> tokens;
  for (const std::size_t s : {25, 3, 10, 13, 8, 16, 0})  // of parents too; most have none
    tokens.push_back(segments[s].begin + segments[s].length / 2);
  const std::int64_t queries = std::ssize(tokens);
  const at::Tensor q = leaf({size, 6, 5}), k = leaf({size, 3, 5}), v = leaf({size, 3, 5});
  const at::Tensor rows = at::tensor(tokens), weight = at::randn({queries, 6, 5}, at::kDouble);
  for (const std::int64_t window : {0, 6}) {
    const at::Tensor full = reference_attention(q, k, v, segments, window).index_select(0, rows);
    const at::Tensor some = attention(q.index_select(0, rows), k, v, {segments, tokens}, window);
    EXPECT_LT(relative_error(some, full), 1e-13);
    const auto expected = torch::autograd::grad({(full * weight).sum()}, {q, k, v});
    const auto gradients = torch::autograd::grad({(some * weight).sum()}, {q, k, v});
    for (int i = 0; i < 3; ++i) EXPECT_LT(relative_error(gradients[i], expected[i]), 1e-12) << i;
  }
}

/// The gradients of shared keys are summed in one order, whatever the threads.
TEST(Attention, SharedKeysAreRepeatableBitForBit) {
  at::manual_seed(8);
  const auto segments = trees();
  const std::int64_t tokens = segments.back().begin + segments.back().length;
  const at::Tensor q = at::randn({tokens, 6, 8}).requires_grad_(true),
                   k = at::randn({tokens, 2, 8}).requires_grad_(true);
  const auto gradients = [&] {
    return torch::autograd::grad({attention(q, k, k, segments).square().sum()}, {q, k});
  };
  const auto once = gradients();
  for (int i = 0; i < 3; ++i) {
    const auto again = gradients();
    EXPECT_TRUE(at::equal(again[0], once[0]) && at::equal(again[1], once[1]));
  }
}

TEST(Attention, HugeScoresDoNotOverflow) {
  const auto segments = segments_of({3});
  const at::Tensor q = at::full({3, 1, 4}, 1e4F),
                   k = at::tensor({-1e4F, 0.0F, 1e4F}).view({3, 1, 1}).expand({3, 1, 4});
  const at::Tensor v = at::randn({3, 1, 4});
  const at::Tensor o = attention(q, k.contiguous(), v, segments);
  EXPECT_LT(relative_error(o, v), 1e-6);  // each query sees its own key as the largest by far
}

TEST(Attention, NeverAllocatesTheSquareOfThePack) {
  constexpr std::int64_t kTokens = 65'536;  // its square would take 16 GiB
  const auto segments = segments_of(std::vector<std::int64_t>(kTokens / 32, 32));
  const at::Tensor q = at::randn({kTokens, 2, 4}).requires_grad_(true),
                   k = at::randn({kTokens, 1, 4}).requires_grad_(true);
  const std::size_t before = testing::reset_peak_memory();
  attention(q, k, k, segments).sum().backward();
  EXPECT_LT(testing::peak_memory() - before, std::size_t{64} << 20);
}

TEST(Attention, RefusesWhatItCannotDo) {
  const at::Tensor q = at::randn({4, 2, 2}), k = at::randn({4, 1, 2});
  std::vector<Segment> segments = segments_of({2, 2});
  segments[1].parent = 1;  // its own
  EXPECT_THROW(attention(q, k, k, segments), c10::Error);
  segments = segments_of({1, 1, 1, 1});
  segments[1].parent = 0;
  segments[3].parent = 1;  // which segment 2 has closed
  EXPECT_THROW(attention(q, k, k, segments), c10::Error);
  segments[2].parent = 1;
  EXPECT_NO_THROW(attention(q, k, k, segments));
  EXPECT_THROW(attention(q, k, k, segments_of({2, 1})), c10::Error);
  EXPECT_THROW(attention(q, at::randn({4, 3, 2}), at::randn({4, 3, 2}), segments_of({4})),
               c10::Error);
  EXPECT_THROW(attention(q, k, k, segments_of({4}), -1), c10::Error);
  const std::vector<std::int64_t> twice{0, 1};
  EXPECT_THROW(attention(q.narrow(0, 0, 2), k, k, {segments_of({4}), twice}), c10::Error);
}

}  // namespace
}  // namespace graphlora
