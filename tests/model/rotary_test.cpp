#include "model/rotary.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "gradient_check.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::relative_error;

constexpr double kTheta = 10000;

/// HF's formula: x·cos + rotate_half(x)·sin, per element.
at::Tensor reference(const at::Tensor& x_TND, const at::Tensor& positions_T) {
  at::Tensor y = at::empty_like(x_TND);
  const std::int64_t dim = x_TND.size(2), half = dim / 2;
  for (std::int64_t t = 0; t < x_TND.size(0); ++t) {
    for (std::int64_t d = 0; d < dim; ++d) {
      const double angle = positions_T[t].item<double>() *
                           std::pow(kTheta, -2.0 * static_cast<double>(d % half) / dim);
      const at::Tensor other = d < half ? -x_TND.select(2, d + half) : x_TND.select(2, d - half);
      y.select(2, d)[t].copy_(x_TND.select(2, d)[t] * std::cos(angle) + other[t] * std::sin(angle));
    }
  }
  return y;
}

TEST(Rotary, RotatesTheFirstPartsAndCopiesTheRest) {
  at::manual_seed(1);
  const at::Tensor positions = at::tensor({0, 3, 200, 7}, at::kLong);
  for (const std::int64_t dim : {2, 4, 64}) {
    const at::Tensor x = at::randn({4, 5 * dim}, at::kDouble);
    for (const auto& [type, tolerance] :
         {std::pair{at::kDouble, 1e-13}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-2}}) {
      const RotaryTable table = RotaryTable::make(256, dim, kTheta, type);
      const auto parts = split_and_rotate(x.to(type), {2, 1, 2}, 2, table, positions);
      EXPECT_LT(
          relative_error(parts[0], reference(x.narrow(1, 0, 2 * dim).view({4, 2, dim}), positions)),
          tolerance);
      EXPECT_LT(relative_error(parts[1],
                               reference(x.narrow(1, 2 * dim, dim).view({4, 1, dim}), positions)),
                tolerance);
      EXPECT_TRUE(parts[2].equal(x.to(type).narrow(1, 3 * dim, 2 * dim).reshape({4, 2, dim})));
    }
  }
}

/// Llama 3.1's table as its authors wrote it: frequency by frequency, with branches.
double llama3_frequency(double frequency, const RopeScaling& s) {
  const double wave = 2 * M_PI / frequency, original = static_cast<double>(s.original_positions);
  if (wave < original / s.high_freq_factor) return frequency;
  if (wave > original / s.low_freq_factor) return frequency / s.factor;
  const double smooth =
      (original / wave - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

TEST(Rotary, Scaling) {
  constexpr std::int64_t kDim = 128;
  const RopeScaling llama3{RopeScaling::Type::llama3, 8, 1, 4, 8192},
      linear{RopeScaling::Type::linear, 4};
  const RotaryTable a = RotaryTable::make(4000, kDim, 5e5, at::kDouble, llama3),
                    b = RotaryTable::make(4000, kDim, 1e4, at::kDouble, linear);
  int kept = 0, divided = 0, between = 0;
  for (std::int64_t i = 0; i < kDim / 2; ++i) {
    const double plain = std::pow(5e5, -2.0 * static_cast<double>(i) / kDim),
                 stretched = llama3_frequency(plain, llama3);
    stretched == plain ? ++kept : stretched == plain / 8 ? ++divided : ++between;
    const double slow = std::pow(1e4, -2.0 * static_cast<double>(i) / kDim) / 4;
    for (const std::int64_t p : {0, 1, 77, 3999}) {
      EXPECT_NEAR(a.cos_PD[p][i].item<double>(), std::cos(static_cast<double>(p) * stretched),
                  1e-11);
      EXPECT_NEAR(a.sin_PD[p][i].item<double>(), std::sin(static_cast<double>(p) * stretched),
                  1e-11);
      EXPECT_NEAR(b.sin_PD[p][i].item<double>(), std::sin(static_cast<double>(p) * slow), 1e-11);
    }
  }
  EXPECT_GT(kept, 5);
  EXPECT_GT(divided, 5);
  EXPECT_GT(between, 2);
}

TEST(Rotary, NormalizesHeadsBeforeTheRotation) {
  at::manual_seed(3);
  const at::Tensor positions = at::tensor({0, 3, 200, 7}, at::kLong);
  constexpr double kEps = 1e-2;  // large enough to matter
  for (const std::int64_t dim : {2, 6, 64}) {
    const at::Tensor x = at::randn({4, 5 * dim}, at::kDouble).requires_grad_(true),
                     q_norm = at::rand({dim}, at::kDouble) + 0.5,
                     k_norm = at::rand({dim}, at::kDouble) + 0.5;
    const auto normed = [&](std::int64_t begin, std::int64_t heads, const at::Tensor& weight) {
      const at::Tensor part = x.narrow(1, begin, heads * dim).view({4, heads, dim});
      return part * at::rsqrt(part.square().mean(2, true) + kEps) * weight;
    };
    const auto rotated = [&](const at::Tensor& part) {
      const RotaryTable table = RotaryTable::make(256, dim, kTheta, at::kDouble);
      const at::Tensor cos = table.cos_PD.index_select(0, positions).unsqueeze(1),
                       sin = table.sin_PD.index_select(0, positions).unsqueeze(1);
      const auto halves = part.chunk(2, 2);
      return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, 2);
    };
    const std::vector<at::Tensor> expected{rotated(normed(0, 2, q_norm)),
                                           rotated(normed(2 * dim, 1, k_norm)),
                                           x.narrow(1, 3 * dim, 2 * dim).reshape({4, 2, dim})};
    std::vector<at::Tensor> weights;
    for (const at::Tensor& part : expected) weights.push_back(at::randn_like(part));
    const auto gradient = [&](const std::vector<at::Tensor>& parts, const at::Tensor& input) {
      at::Tensor loss = at::zeros({}, at::kDouble);
      for (std::size_t i = 0; i < 3; ++i)
        loss = loss + (parts[i].to(at::kDouble) * weights[i]).sum();
      return torch::autograd::grad({loss}, {input})[0];
    };
    const at::Tensor expected_gradient = gradient(expected, x);
    for (const auto& [type, tolerance] :
         {std::pair{at::kDouble, 1e-13}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-2}}) {
      const RotaryTable table = RotaryTable::make(256, dim, kTheta, type);
      const at::Tensor input = x.detach().to(type).requires_grad_(true);
      const auto parts = split_and_rotate(input, {2, 1, 2}, 2, table, positions,
                                          {{q_norm.to(type), k_norm.to(type)}, kEps});
      for (std::size_t i = 0; i < 3; ++i)
        EXPECT_LT(relative_error(parts[i], expected[i]), tolerance) << dim << " " << i;
      EXPECT_LT(relative_error(gradient(parts, input), expected_gradient), 2 * tolerance) << dim;
      // Only one of the parts with a norm.
      const auto some =
          split_and_rotate(input, {2, 1, 2}, 2, table, positions, {{{}, k_norm.to(type)}, kEps});
      EXPECT_TRUE(some[1].equal(parts[1]));
      EXPECT_FALSE(some[0].equal(parts[0]));
    }
  }
  const RotaryTable table = RotaryTable::make(256, 4, kTheta, at::kDouble);
  const at::Tensor x = at::randn({4, 8}, at::kDouble);
  EXPECT_THROW(split_and_rotate(x, {1, 1}, 1, table, positions, {{at::ones({6}, at::kDouble)}, 1}),
               c10::Error);
  EXPECT_THROW(
      split_and_rotate(x, {1, 1}, 1, table, positions, {{{}, at::ones({4}, at::kDouble)}, 1}),
      c10::Error);
}

TEST(Rotary, Gradient) {
  at::manual_seed(2);
  const at::Tensor x = testing::leaf({3, 4 * 6}), positions = at::tensor({1, 9, 4}, at::kLong);
  const RotaryTable table = RotaryTable::make(16, 6, kTheta, at::kDouble);
  testing::expect_gradients(
      [&] {
        return split_and_rotate(x, {2, 1, 1}, 2, table, positions);
      },
      {{"x", x}});
}

}  // namespace
}  // namespace graphlora
