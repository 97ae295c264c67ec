// Products with packed weights against ATen's of the same numbers in fp32.
#include "model/packed_weights.hpp"

#include <gtest/gtest.h>

#include "core/shortcuts.hpp"

namespace graphlora {
namespace {

constexpr double kRounding = 8e-3;  // of one bf16 number

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kFloat) - b).norm() / b.norm()).item<double>();
}

class Packed : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if (!PackedWeights::available()) GTEST_SKIP() << "this CPU has no matrix unit";
    at::manual_seed(5);
  }
  static at::Tensor random(std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}).to(at::kBFloat16);
  }
};

TEST_P(Packed, EqualsATensProducts) {
  const std::int64_t tokens = GetParam(), inputs = 106, outputs = 174;
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

TEST_P(Packed, OffItIsATensProduct) {
  const at::Tensor w = random(48, 72), x = random(GetParam(), 72), dy = random(GetParam(), 48);
  const PlainPaths plain({Shortcut::packing});
  PackedWeights packs;
  EXPECT_TRUE(at::equal(times_transposed(&packs, x, w, std::nullopt), at::mm(x, w.t())));
  EXPECT_TRUE(at::equal(times(&packs, dy, w), at::mm(dy, w)));
}

INSTANTIATE_TEST_SUITE_P(Tokens, Packed, ::testing::Values(1, 16, 333));

}  // namespace
}  // namespace graphlora
