#include "model/attention_tiles.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "attention_fixture.hpp"
#include "core/shortcuts.hpp"
#include "llm_fixture.hpp"
#include "model/attention.hpp"

namespace graphlora {
namespace {

using testing::reference_attention;
using testing::relative_error;
using testing::segments_of;
using testing::trees;

struct Heads {
  std::int64_t heads, groups, dim;
};

/// bf16 numbers, so that the definition in fp64 reads the same ones.
at::Tensor random(std::int64_t rows, std::int64_t heads, std::int64_t dim) {
  return at::randn({rows, heads, dim}).to(at::kBFloat16);
}

struct Results {
  at::Tensor o;
  std::vector<at::Tensor> gradients;
};

/// Of `function` in `type`, with a random weight as the output's gradient.
template <class Function>
Results results(const std::vector<at::Tensor>& inputs, const at::Tensor& weight,
                at::ScalarType type, const Function& function) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.to(type).detach().requires_grad_(true));
  const at::Tensor o = function(leaves[0], leaves[1], leaves[2]);
  return {o, torch::autograd::grad({o}, leaves, {weight.to(type)})};
}

class AttentionTiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!attention_tiles_fit(random(1, 1, 64))) GTEST_SKIP() << "this CPU has no matrix unit";
    at::manual_seed(11);
  }
};

// One rounding to bf16 is 2⁻⁹ of a number at most; here are those of the result and of the numbers
// between.
constexpr double kForward = 4e-3, kBackward = 6e-3;

TEST_F(AttentionTiles, EqualTheDefinition) {
  const auto segments = trees();
  const std::int64_t tokens = segments.back().begin + segments.back().length;
  for (const auto& [heads, groups, dim] :
       {Heads{9, 3, 64}, {4, 4, 32}, {6, 1, 96}, {16, 2, 128}, {1, 1, 64}}) {
    const std::vector<at::Tensor> inputs{random(tokens, heads, dim), random(tokens, groups, dim),
                                         random(tokens, groups, dim)};
    const at::Tensor weight = random(tokens, heads, dim);
    for (const std::int64_t window : {0, 1, 40, 65}) {
      const Results expected =
          results(inputs, weight, at::kDouble,
                  [&, w = window](const auto& q, const auto& k, const auto& v) {
                    return reference_attention(q, k, v, segments, w);
                  });
      const auto tiles = [&, w = window](const auto& q, const auto& k, const auto& v) {
        return attention(q, k, v, segments, w);
      };
      const Results computed = results(inputs, weight, at::kBFloat16, tiles);
      EXPECT_LT(relative_error(computed.o, expected.o), kForward) << dim << ", window " << window;
      for (int i = 0; i < 3; ++i) {
        // A window of one key has a softmax of one number, whose gradient is zero.
        if (window == 1 && i < 2) {
          EXPECT_LT(computed.gradients[i].abs().max().item<double>(), 1e-2) << dim;
          continue;
        }
        EXPECT_LT(relative_error(computed.gradients[i], expected.gradients[i]), kBackward)
            << i << " of " << heads << " heads of " << dim << ", window " << window;
      }
      const Results again = results(inputs, weight, at::kBFloat16, tiles);
      EXPECT_TRUE(at::equal(again.o, computed.o));
      for (int i = 0; i < 3; ++i)
        EXPECT_TRUE(at::equal(again.gradients[i], computed.gradients[i])) << i;
    }
  }
}

TEST_F(AttentionTiles, QueriesAtSingleTokens) {
  const auto segments = trees();
  const std::int64_t size = segments.back().begin + segments.back().length;
  std::vector<std::int64_t> tokens;
  for (const std::size_t s : {25, 3, 10, 13, 8, 16, 0})
    tokens.push_back(segments[s].begin + segments[s].length / 2);
  const at::Tensor rows = at::tensor(tokens);
  const std::vector<at::Tensor> inputs{random(size, 9, 64), random(size, 3, 64),
                                       random(size, 3, 64)};
  const at::Tensor weight = random(std::ssize(tokens), 9, 64);
  for (const std::int64_t window : {0, 6}) {
    const Results expected = results(
        inputs, weight, at::kDouble, [&, w = window](const auto& q, const auto& k, const auto& v) {
          return reference_attention(q, k, v, segments, w).index_select(0, rows);
        });
    const Results computed =
        results(inputs, weight, at::kBFloat16,
                [&, w = window](const auto& q, const auto& k, const auto& v) {
                  return attention(q.index_select(0, rows), k, v, {segments, tokens}, w);
                });
    EXPECT_LT(relative_error(computed.o, expected.o), kForward);
    for (int i = 0; i < 3; ++i)
      EXPECT_LT(relative_error(computed.gradients[i], expected.gradients[i]), kBackward) << i;
  }
}

// Zeros that are multiplied by what is not a number are none: in the places behind a path's keys
// too.
TEST_F(AttentionTiles, LeaveOtherTreesAloneWhateverStandsInOne) {
  // The second tree is broken, and in the fourth one child; longer ones follow on each.
  std::vector<Segment> segments = segments_of({61, 200, 250, 70});
  for (const std::int64_t length : {9, 50, 3})
    segments.push_back(
        {.begin = segments.back().begin + segments.back().length, .length = length, .parent = 3});
  const std::int64_t tokens = segments.back().begin + segments.back().length;
  std::vector<at::Tensor> inputs{random(tokens, 6, 64), random(tokens, 2, 64),
                                 random(tokens, 2, 64)};
  at::Tensor weight = random(tokens, 6, 64);
  const auto compute = [&] {
    return results(inputs, weight, at::kBFloat16, [&](const auto& q, const auto& k, const auto& v) {
      return attention(q, k, v, segments);
    });
  };
  const Results whole = compute();
  std::vector<std::int64_t> apart, apart_but_shared;  // what must stay, of q and of k and v
  for (const std::size_t broken : {1, 4}) {
    const Segment& s = segments[broken];
    for (at::Tensor& x : inputs) x.narrow(0, s.begin, s.length).fill_(NAN);
    weight.narrow(0, s.begin, s.length).fill_(NAN);
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (i == 1 || i == 4) continue;
    for (std::int64_t t = segments[i].begin; t < segments[i].begin + segments[i].length; ++t) {
      apart.push_back(t);
      if (i != 3) apart_but_shared.push_back(t);  // the broken child's gradient goes to its parent
    }
  }
  const at::Tensor rows = at::tensor(apart), own_rows = at::tensor(apart_but_shared);
  const Results broken = compute();
  EXPECT_TRUE(broken.o.narrow(0, 61, 200).isnan().all().item<bool>());
  EXPECT_TRUE(at::equal(broken.o.index_select(0, rows), whole.o.index_select(0, rows)));
  for (int i = 0; i < 3; ++i) {
    const at::Tensor& stay = i == 0 ? rows : own_rows;
    EXPECT_TRUE(at::equal(broken.gradients[i].index_select(0, stay),
                          whole.gradients[i].index_select(0, stay)))
        << i;
  }
}

TEST_F(AttentionTiles, OffTheVectorKernelsCompute) {
  const auto segments = segments_of({61, 100});
  const std::vector<at::Tensor> inputs{random(161, 6, 64), random(161, 2, 64), random(161, 2, 64)};
  const at::Tensor weight = random(161, 6, 64);
  const auto compute = [&] {
    return results(inputs, weight, at::kBFloat16, [&](const auto& q, const auto& k, const auto& v) {
      return attention(q, k, v, segments);
    });
  };
  const Results tiles = compute();
  const std::int64_t before = times_left_out(Shortcut::attention_tiles);
  const PlainPaths plain({Shortcut::attention_tiles});
  const Results vectors = compute();
  EXPECT_EQ(times_left_out(Shortcut::attention_tiles), before + 2);
  EXPECT_LT(relative_error(tiles.o, vectors.o), kForward);
  for (int i = 0; i < 3; ++i)
    EXPECT_LT(relative_error(tiles.gradients[i], vectors.gradients[i]), kBackward) << i;
}

TEST(AttentionTilesFit, OnlyBf16OfWholeTiles) {
  for (const auto& [type, dim] :
       {std::pair{at::kFloat, 64}, {at::kDouble, 64}, {at::kBFloat16, 80}})
    EXPECT_FALSE(attention_tiles_fit(at::empty({1, 1, dim}, type)));
}

}  // namespace
}  // namespace graphlora
