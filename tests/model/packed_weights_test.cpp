// Products with packed weights against ATen's of the same numbers in fp32.
#include "model/packed_weights.hpp"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/shortcuts.hpp"

namespace graphlora {
namespace {

constexpr double kRounding = 8e-3;  // of one bf16 number

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kFloat) - b).norm() / b.norm()).item<double>();
}

at::Tensor random(std::int64_t rows, std::int64_t columns) {
  return at::randn({rows, columns}).to(at::kBFloat16);
}

class Packed : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if (!PackedWeights::available()) GTEST_SKIP() << "this CPU has no matrix unit";
    at::manual_seed(5);
  }
};

/// Both products of `tokens` with two parts of one weight.
void expect_atens_products(std::int64_t tokens, std::int64_t inputs, std::int64_t outputs) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << inputs << " to " << outputs);
  const at::Tensor whole = random(2 * outputs, inputs), x = random(tokens, inputs),
                   dy = random(tokens, outputs), added = random(tokens, outputs),
                   bias = random(1, outputs)[0];
  PackedWeights packs;
  // Parts of one weight have packs of their own; the second round reads them.
  for (int round = 0; round < 2; ++round) {
    for (const std::int64_t first : {std::int64_t{0}, outputs}) {
      const at::Tensor w = whole.narrow(0, first, outputs), exact = w.to(at::kFloat);
      const at::Tensor y = at::mm(x.to(at::kFloat), exact.t());
      EXPECT_LT(difference(times_transposed(&packs, x, w, std::nullopt), y), kRounding);
      EXPECT_LT(difference(times_transposed(&packs, x, w, bias), y + bias), kRounding);
      EXPECT_LT(difference(times_transposed(&packs, x, w, added), y + added), kRounding);
      EXPECT_LT(difference(times(&packs, dy, w), at::mm(dy.to(at::kFloat), exact)), kRounding);
    }
  }
}

// Whole panels and lines, parts of them, one panel.
TEST_P(Packed, EqualsATensProducts) {
  for (const auto& [inputs, outputs] : {std::pair{106, 174}, {96, 192}, {32, 64}})
    expect_atens_products(GetParam(), inputs, outputs);
}

TEST_P(Packed, ATokensResultIsThatOfTheTokenAlone) {
  const at::Tensor x = random(GetParam(), 576), w = random(960, 576);
  PackedWeights packs;
  const at::Tensor y = times_transposed(&packs, x, w, std::nullopt);
  for (const std::int64_t token : {std::int64_t{0}, GetParam() / 2, GetParam() - 1}) {
    EXPECT_TRUE(at::equal(times_transposed(&packs, x.narrow(0, token, 1), w, std::nullopt),
                          y.narrow(0, token, 1)))
        << token;
  }
  const int threads = at::get_num_threads();
  for (const int some : {1, 2, 3, 5}) {
    at::set_num_threads(some);
    EXPECT_TRUE(at::equal(times_transposed(&packs, x, w, std::nullopt), y)) << some << " threads";
  }
  at::set_num_threads(threads);
}

TEST_P(Packed, WhatDoesNotFitIsRefused) {
  const at::Tensor w = random(64, 32), x = random(GetParam(), 32);
  PackedWeights packs;
  for (const at::Tensor& added : {random(GetParam() + 1, 64), random(1, 63)[0]})
    EXPECT_THROW(times_transposed(&packs, x, w, added), c10::Error);
  EXPECT_THROW(times_transposed(&packs, random(GetParam(), 34), w, std::nullopt), c10::Error);
}

TEST_P(Packed, OffItIsATensProduct) {
  const at::Tensor w = random(48, 72), x = random(GetParam(), 72), dy = random(GetParam(), 48);
  const PlainPaths plain({Shortcut::packing});
  PackedWeights packs;
  EXPECT_TRUE(at::equal(times_transposed(&packs, x, w, std::nullopt), at::mm(x, w.t())));
  EXPECT_TRUE(at::equal(times(&packs, dy, w), at::mm(dy, w)));
}

INSTANTIATE_TEST_SUITE_P(Tokens, Packed, ::testing::Values(1, 16, 50, 63, 64, 65, 333));

}  // namespace
}  // namespace graphlora
