// Shapes: T tokens, I inputs, O outputs, R stacked ranks, C adapted outputs, A anchors.
#include "model/lora_linear.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "gradient_check.hpp"
#include "llm_fixture.hpp"
#include "support/devices.hpp"

namespace graphlora {
namespace {

using testing::leaf;
using testing::relative_error;

/// A linear 7 → 12 with adapters of rank 2 on outputs [0, 5) and [8, 12).
struct Case {
  at::Tensor x = leaf({6, 7}), weight = at::randn({12, 7}, at::kDouble), residual = leaf({6, 12});
  at::Tensor a = leaf({4, 7}), b = leaf({9, 2}), z = leaf({2, 2});
  at::Tensor lambda_lora = at::full({}, 0.8, at::kDouble).requires_grad_(true);
  at::Tensor lambda_gnn = at::full({}, 0.3, at::kDouble).requires_grad_(true);
  at::Tensor ratio_sums = at::zeros({2}, at::kDouble);
  double scale = 1.7;
  AdapterDropout dropout{{0.4, 5, 6}, 2, InputGroup::qkv, at::arange(6), at::arange(6)};

  at::Tensor run(at::ScalarType type = at::kDouble) const {
    const auto cast = [&](const at::Tensor& t) { return t.to(type); };
    const auto factor = [&](const at::Tensor& t) {
      return t.to(type == at::kDouble ? at::kDouble : at::kFloat);
    };
    return lora_linear(cast(x), {.weight_OI = cast(weight)}, cast(residual),
                       {factor(a), factor(b), {{0, 5}, {8, 4}}, scale},
                       {factor(z), factor(lambda_lora), factor(lambda_gnn),
                        at::tensor({1, 4}, at::kLong), ratio_sums},
                       dropout);
  }

  /// The definition, token by token.
  at::Tensor reference() const {
    const at::Tensor dropped = graphlora::dropout(x, dropout.streams_T, dropout.positions_T,
                                                  dropout.key, dropout.layer, dropout.group);
    std::vector<at::Tensor> rows;
    for (std::int64_t t = 0; t < 6; ++t) {
      const std::int64_t anchor = t == 1 ? 0 : t == 4 ? 1 : -1;
      const auto h = [&](std::int64_t k) {
        const at::Tensor u = at::mv(a.narrow(0, 2 * k, 2), dropped[t]);
        return anchor < 0 ? u : lambda_lora * u + lambda_gnn * z[anchor];
      };
      const at::Tensor delta =
          at::cat({at::mv(b.narrow(0, 0, 5), h(0)), at::zeros({3}, at::kDouble),
                   at::mv(b.narrow(0, 5, 4), h(1))});
      rows.push_back(at::mv(weight, x[t]) + residual[t] + scale * delta);
    }
    return at::stack(rows);
  }
};

TEST(LoraLinear, EqualsItsDefinition) {
  at::manual_seed(1);
  const Case c;
  EXPECT_LT(relative_error(c.run(), c.reference()), 1e-14);
  EXPECT_LT(relative_error(c.run(at::kFloat), c.reference()), 1e-6);
  EXPECT_LT(relative_error(c.run(at::kBFloat16), c.reference()), 2e-2);
}

TEST(LoraLinear, Gradients) {
  at::manual_seed(2);
  const Case c;
  testing::expect_gradients([&] { return std::vector{c.run()}; }, {{"x", c.x},
                                                                   {"residual", c.residual},
                                                                   {"a", c.a},
                                                                   {"b", c.b},
                                                                   {"z", c.z},
                                                                   {"lambda_lora", c.lambda_lora},
                                                                   {"lambda_gnn", c.lambda_gnn}});
}

TEST(LoraLinear, GradientsOfManyRowsEqualAutogradOfTheDefinition) {
  at::manual_seed(3);
  const std::int64_t rows = 300, inputs = 40, outputs = 30,
                     rank = 11;  // several blocks, no multiple of the lanes
  const at::Tensor x = leaf({rows, inputs}), weight = at::randn({outputs, inputs}, at::kDouble);
  const at::Tensor a = leaf({rank, inputs}), b = leaf({outputs, rank}),
                   w = at::randn({rows, outputs}, at::kDouble);
  const at::Tensor expected = at::mm(x, weight.t()) + 2 * at::mm(at::mm(x, a.t()), b.t());
  const at::Tensor y = lora_linear(x, {.weight_OI = weight}, {}, {a, b, {{0, outputs}}, 2}, {}, {});
  EXPECT_LT(relative_error(y, expected), 1e-13);
  const auto want = torch::autograd::grad({(expected * w).sum()}, {x, a, b});
  const auto have = torch::autograd::grad({(y * w).sum()}, {x, a, b});
  for (int i = 0; i < 3; ++i) EXPECT_LT(relative_error(have[i], want[i]), 1e-13) << i;
}

TEST(LoraLinear, NothingFrozenGetsAGradient) {
  at::manual_seed(4);
  Case c;
  c.weight.requires_grad_(true);
  for (at::Tensor* t : {&c.x, &c.a, &c.z, &c.lambda_lora, &c.lambda_gnn, &c.residual})
    *t = t->detach();
  c.run().sum().backward();  // as in the stage that trains nothing but B
  EXPECT_FALSE(c.weight.grad().defined());
  EXPECT_TRUE(c.b.grad().defined());
}

TEST(LoraLinear, RatioSumsCountEveryAnchorAndAdapter) {
  at::manual_seed(5);
  const Case c;
  c.run();
  const at::Tensor dropped =
      dropout(c.x, c.dropout.streams_T, c.dropout.positions_T, c.dropout.key, 2, InputGroup::qkv);
  const at::Tensor u = at::mm(dropped.index_select(0, at::tensor({1, 4}, at::kLong)), c.a.t());
  const double graph = 2 * (c.z * 0.3).square().sum().item<double>(),
               lora = (u * 0.8).square().sum().item<double>();
  EXPECT_NEAR(c.ratio_sums[0].item<double>(), graph, 1e-12);
  EXPECT_NEAR(c.ratio_sums[1].item<double>(), lora, 1e-12);
}

TEST(LoraLinear, WithoutAdaptersItIsTheBase) {
  at::manual_seed(6);
  const at::Tensor x = leaf({3, 5}), weight = at::randn({4, 5}, at::kDouble);
  EXPECT_LT(
      relative_error(lora_linear(x, {.weight_OI = weight}, {}, {}, {}, {}), at::mm(x, weight.t())),
      1e-15);
  testing::expect_gradients(
      [&] { return std::vector{lora_linear(x, {.weight_OI = weight}, {}, {}, {}, {})}; },
      {{"x", x}});
}

TEST(LoraLinear, BiasAndResidualAreAddedOnce) {
  at::manual_seed(7);
  const at::Tensor x = leaf({3, 5}), weight = at::randn({4, 5}, at::kDouble),
                   bias = at::randn({4}, at::kDouble), residual = leaf({3, 4});
  const at::Tensor plain = at::mm(x, weight.t()) + bias;
  EXPECT_LT(relative_error(lora_linear(x, {weight, bias}, {}, {}, {}, {}), plain), 1e-15);
  EXPECT_LT(relative_error(lora_linear(x, {weight, bias}, residual, {}, {}, {}), plain + residual),
            1e-15);
}

/// Where rank `rank` of `size` begins in `count` features: uneven, one part may be empty.
std::int64_t begin_of(std::int64_t count, int size, int rank) {
  if (rank == size) return count;
  return std::min<std::int64_t>(count, rank * (count / size + 1));
}

/// One linear, whole on the CPU and split over all ranks, with everything that can be in it.
class SplitLinear : public test::OnSetting {
 protected:
  static constexpr std::int64_t kTokens = 9, kRank = 3;

  /// Two adapted slices that share one input (as q and v do), or one.
  void build(std::int64_t inputs, std::int64_t outputs, int slices) {
    at::manual_seed(8);
    x = leaf({kTokens, inputs});
    weight = at::randn({outputs, inputs}, at::kDouble);
    bias = at::randn({outputs}, at::kDouble);
    residual = leaf({kTokens, outputs});
    a = leaf({slices * kRank, inputs});
    b = leaf({outputs, kRank});
    z = leaf({2, kRank});
    w = at::randn({kTokens, outputs}, at::kDouble);
    dropout = {{0.3, 5, 6}, 2, InputGroup::o, at::arange(kTokens) + 100, at::arange(kTokens)};
  }
  /// Of these three leaves, which say where.
  static Injection injection(const at::Tensor& z, const at::Tensor& lambda_lora,
                             const at::Tensor& lambda_gnn) {
    return {z, lambda_lora, lambda_gnn, at::tensor({2, 7}, at::kLong).to(z.device()), {}};
  }
  AdapterDropout dropout_here() const {
    AdapterDropout moved = dropout;
    moved.streams_T = here(dropout.streams_T);
    moved.positions_T = here(dropout.positions_T);
    return moved;
  }
  static std::vector<at::Tensor> gradients(const at::Tensor& y, const at::Tensor& weights,
                                           const std::vector<at::Tensor>& leaves) {
    return torch::autograd::grad({(y * weights).sum()}, leaves);
  }
  /// A leaf of its own on the test's device.
  at::Tensor leaf_here(const at::Tensor& tensor) const {
    return here(tensor.detach()).clone().requires_grad_(true);
  }
  at::Tensor part(const at::Tensor& tensor, std::int64_t dim, std::int64_t begin,
                  std::int64_t end) const {
    return leaf_here(tensor.narrow(dim, begin, end - begin));
  }
  static void expect_close(const at::Tensor& have, const at::Tensor& want, const char* what) {
    ASSERT_EQ(have.sizes(), want.sizes()) << what;
    EXPECT_LT(relative_error(have.cpu(), want), 1e-13) << what;
  }

  at::Tensor x, weight, bias, residual, a, b, z, w;
  at::Tensor lambda_lora = at::full({}, 0.8, at::kDouble).requires_grad_(true);
  at::Tensor lambda_gnn = at::full({}, 0.3, at::kDouble).requires_grad_(true);
  AdapterDropout dropout;
};

TEST_P(SplitLinear, ByColumns) {
  const std::int64_t first = 11, second = 7;  // outputs of the two slices
  build(13, first + second, 2);
  const at::Tensor y =
      lora_linear(x, {weight, bias}, {}, {a, b, {{0, first}, {first, second}}, 1.7},
                  injection(z, lambda_lora, lambda_gnn), dropout);
  const auto want = gradients(y, w, {x, a, z, lambda_lora, lambda_gnn, b});

  const int size = world().size(), rank = world().rank();
  const std::int64_t f0 = begin_of(first, size, rank), f1 = begin_of(first, size, rank + 1),
                     s0 = first + begin_of(second, size, rank),
                     s1 = first + begin_of(second, size, rank + 1);
  const auto rows = [&](const at::Tensor& t) {
    return at::cat({t.narrow(0, f0, f1 - f0), t.narrow(0, s0, s1 - s0)}).detach();
  };
  const std::vector<at::Tensor> leaves{leaf_here(x),          leaf_here(a),
                                       leaf_here(z),          leaf_here(lambda_lora),
                                       leaf_here(lambda_gnn), leaf_here(rows(b))};
  const at::Tensor y_part =
      lora_linear(leaves[0], {here(rows(weight)), here(rows(bias)), SplitBy::column, &world()}, {},
                  {leaves[1], leaves[5], {{0, f1 - f0}, {f1 - f0, s1 - s0}}, 1.7},
                  injection(leaves[2], leaves[3], leaves[4]), dropout_here());
  expect_close(y_part, rows(y.t()).t(), "y");
  const auto have = gradients(y_part, here(rows(w.t()).t()), leaves);
  const char* names[] = {"x", "a", "z", "lambda_lora", "lambda_gnn"};
  for (std::size_t i = 0; i < 5; ++i) expect_close(have[i], want[i], names[i]);
  expect_close(have[5], rows(want[5]), "b");
}

TEST_P(SplitLinear, ByRows) {
  const std::int64_t inputs = 300;  // the parts begin inside of a block of dropout bits
  build(inputs, 10, 1);
  const at::Tensor y = lora_linear(x, {weight, bias}, residual, {a, b, {{0, 10}}, 1.7},
                                   injection(z, lambda_lora, lambda_gnn), dropout);
  const auto want = gradients(y, w, {x, a, b, z, lambda_lora, lambda_gnn, residual});

  const std::int64_t begin = begin_of(inputs, world().size(), world().rank()),
                     end = begin_of(inputs, world().size(), world().rank() + 1);
  const std::vector<at::Tensor> leaves{
      part(x, 1, begin, end), part(a, 1, begin, end), leaf_here(b),       leaf_here(z),
      leaf_here(lambda_lora), leaf_here(lambda_gnn),  leaf_here(residual)};
  const at::Tensor y_whole = lora_linear(
      leaves[0], {part(weight, 1, begin, end).detach(), here(bias), SplitBy::row, &world(), begin},
      leaves[6], {leaves[1], leaves[2], {{0, 10}}, 1.7}, injection(leaves[3], leaves[4], leaves[5]),
      dropout_here());
  expect_close(y_whole, y, "y");
  const auto have = gradients(y_whole, here(w), leaves);
  expect_close(have[0], want[0].narrow(1, begin, end - begin), "x");
  expect_close(have[1], want[1].narrow(1, begin, end - begin), "a");
  const char* names[] = {"b", "z", "lambda_lora", "lambda_gnn", "residual"};
  for (std::size_t i = 0; i < 5; ++i) expect_close(have[i + 2], want[i + 2], names[i]);
}

TEST_P(SplitLinear, WithoutAdapters) {
  build(13, 12, 1);
  const auto want = gradients(lora_linear(x, {weight, bias}, {}, {}, {}, {}), w, {x});
  const std::int64_t begin = begin_of(12, world().size(), world().rank()),
                     end = begin_of(12, world().size(), world().rank() + 1);
  const auto slice = [&](const at::Tensor& t) { return here(t.narrow(0, begin, end - begin)); };
  const at::Tensor own = leaf_here(x);
  const at::Tensor y =
      lora_linear(own, {slice(weight), slice(bias), SplitBy::column, &world()}, {}, {}, {}, {});
  expect_close(gradients(y, here(w.narrow(1, begin, end - begin)), {own})[0], want[0], "x");
}

INSTANTIATE_TEST_SUITE_P(Over, SplitLinear, test::kEverySettingAndPath, test::name_of_setting);

}  // namespace
}  // namespace graphlora
