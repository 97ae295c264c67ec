#include "model/dropout.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "gradient_check.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

at::Tensor mask_of(const DropoutKey& key, std::int64_t layer, InputGroup group,
                   const at::Tensor& streams, const at::Tensor& positions, std::int64_t features) {
  return dropout(at::ones({streams.size(0), features}), streams, positions, key, layer, group);
}

/// The documented bits, drawn one by one with core's generator.
TEST(Dropout, BitsAreTheDocumentedOnes) {
  const DropoutKey key{0.3, 0xDEADBEEF12345678ULL, 77};
  const std::int64_t features = 200, stream = (std::int64_t{5} << 32) + 9, position = 41,
                     layer = 12;
  const at::Tensor mask = mask_of(key, layer, InputGroup::gate_up, at::tensor({stream}),
                                  at::tensor({position}), features);
  const std::uint64_t philox_key = splitmix64(splitmix64(key.seed) + 77);
  const auto threshold = static_cast<std::uint32_t>(std::lround(0.3 * 65536));
  for (std::int64_t f = 0; f < features; ++f) {
    const auto block = static_cast<std::uint32_t>(16 * (f / 128) + f % 16),
               half = static_cast<std::uint32_t>(f / 16 % 8);
    const auto words = philox4x32({9, 5, 41, ((12U * 4 + 2) << 16) + block}, philox_key);
    const std::uint32_t bits = words[half / 2] >> (half % 2 * 16) & 0xFFFF;
    const float expected =
        bits < threshold ? 0.0F : 65536.0F / static_cast<float>(65536 - threshold);
    ASSERT_EQ(mask[0][f].item<float>(), expected) << f;
  }
}

TEST(Dropout, DropsTheRightShareWithoutCorrelation) {
  const DropoutKey key{0.05, 3, 8};
  const std::int64_t tokens = 2000, features = 576;
  const at::Tensor streams = at::arange(tokens), positions = at::arange(tokens) % 100;
  const at::Tensor mask = mask_of(key, 0, InputGroup::qkv, streams, positions, features);
  const at::Tensor dropped = (mask == 0).to(at::kDouble);
  const double n = static_cast<double>(tokens * features), sigma = std::sqrt(0.05 * 0.95 / n);
  EXPECT_NEAR(dropped.mean().item<double>(), 0.05, 5 * sigma);
  EXPECT_NEAR(mask.mean().item<double>(), 1, 5 * sigma / 0.95);
  // Every feature and every token has its own share; neighbours in all directions are independent.
  EXPECT_NEAR(dropped.mean(0).std().item<double>(), std::sqrt(0.05 * 0.95 / tokens),
              0.1 * std::sqrt(0.05 * 0.95 / tokens));
  EXPECT_NEAR(dropped.mean(1).std().item<double>(), std::sqrt(0.05 * 0.95 / features),
              0.1 * std::sqrt(0.05 * 0.95 / features));
  const at::Tensor centred = dropped - 0.05;
  for (const std::int64_t shift : {1, 2, 8, 16, 32, 128}) {
    const double across =
        (centred.narrow(1, 0, features - shift) * centred.narrow(1, shift, features - shift))
            .mean()
            .item<double>();
    const double along =
        (centred.narrow(0, 0, tokens - shift) * centred.narrow(0, shift, tokens - shift))
            .mean()
            .item<double>();
    EXPECT_NEAR(across, 0, 5 * 0.05 * 0.95 / std::sqrt(n / 2)) << shift;
    EXPECT_NEAR(along, 0, 5 * 0.05 * 0.95 / std::sqrt(n / 2)) << shift;
  }
}

TEST(Dropout, EveryPartOfTheKeyMatters) {
  const at::Tensor streams = at::zeros({4}, at::kLong), positions = at::arange(4);
  const DropoutKey key{0.5, 1, 1};
  const at::Tensor base = mask_of(key, 1, InputGroup::qkv, streams, positions, 128);
  EXPECT_TRUE(base.equal(mask_of(key, 1, InputGroup::qkv, streams, positions, 128)));
  EXPECT_FALSE(base.equal(mask_of({0.5, 2, 1}, 1, InputGroup::qkv, streams, positions, 128)));
  EXPECT_FALSE(base.equal(mask_of({0.5, 1, 2}, 1, InputGroup::qkv, streams, positions, 128)));
  EXPECT_FALSE(base.equal(mask_of(key, 2, InputGroup::qkv, streams, positions, 128)));
  EXPECT_FALSE(base.equal(mask_of(key, 1, InputGroup::o, streams, positions, 128)));
  EXPECT_FALSE(base.equal(mask_of(key, 1, InputGroup::qkv, streams + 1, positions, 128)));
  EXPECT_FALSE(base.equal(mask_of(key, 1, InputGroup::qkv, streams, positions + 1, 128)));
  // seed and step do not stand in for each other: a run with the next seed is no shifted copy.
  EXPECT_FALSE(mask_of({0.5, 2, 1}, 1, InputGroup::qkv, streams, positions, 128)
                   .equal(mask_of({0.5, 1, 2}, 1, InputGroup::qkv, streams, positions, 128)));
}

TEST(Dropout, DoesNotDependOnThePackOrTheWidth) {
  const DropoutKey key{0.2, 4, 5};
  const at::Tensor streams = at::tensor({7, 7, 7, 9, 9}, at::kLong),
                   positions = at::tensor({0, 1, 2, 0, 1}, at::kLong);
  const at::Tensor packed = mask_of(key, 3, InputGroup::down, streams, positions, 300);
  const at::Tensor alone = mask_of(key, 3, InputGroup::down, at::tensor({9, 9}, at::kLong),
                                   at::tensor({0, 1}, at::kLong), 300);
  EXPECT_TRUE(packed.narrow(0, 3, 2).equal(alone));
  const at::Tensor narrow = mask_of(key, 3, InputGroup::down, streams, positions, 100);
  EXPECT_TRUE(packed.narrow(1, 0, 100).equal(narrow));
}

TEST(Dropout, GradientUsesTheSameMask) {
  at::manual_seed(1);
  const at::Tensor x = testing::leaf({4, 19}), streams = at::arange(4), positions = at::arange(4);
  testing::expect_gradients(
      [&] {
        return std::vector{dropout(x, streams, positions, {0.5, 3, 2}, 1, InputGroup::o)};
      },
      {{"x", x}});
}

TEST(Dropout, ZeroIsTheIdentityAndAbsurdIsRefused) {
  const at::Tensor x = at::randn({2, 3}), index = at::zeros({2}, at::kLong);
  EXPECT_TRUE(dropout(x, index, index, {}, 0, InputGroup::qkv).equal(x));
  for (const double p : {-0.1, 1.0, 2.0, std::nan("")}) {
    EXPECT_THROW(dropout(x, index, index, {p, 0, 0}, 0, InputGroup::qkv), ConfigError) << p;
  }
}

}  // namespace
}  // namespace graphlora
