#include "core/rng.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace graphlora {
namespace {

TEST(SplitMix64, ReferenceValues) {
  // Vigna's splitmix64.c, state 1234567 and state 0.
  SplitMix64 random(1234567);
  for (const std::uint64_t expected :
       {6457827717110365317ULL, 3203168211198807973ULL, 9817491932198370423ULL,
        4593380528125082431ULL, 16408922859458223821ULL}) {
    EXPECT_EQ(random(), expected);
  }
  EXPECT_EQ(splitmix64(0), 0xE220A8397B1DCDAFULL);
  EXPECT_EQ(splitmix64(1234567), 6457827717110365317ULL);
}

TEST(SplitMix64, UniformAndNormalHaveTheirMoments) {
  SplitMix64 random(7);
  constexpr int n = 200000;
  double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
    const double z = random.normal();
    ASSERT_TRUE(std::isfinite(z));
    normal_sum += z;
    normal_squares += z * z;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.004);
  EXPECT_NEAR(squares / n, 1.0 / 3, 0.004);
  EXPECT_NEAR(normal_sum / n, 0, 0.012);
  EXPECT_NEAR(normal_squares / n, 1, 0.02);
}

TEST(SplitMix64, BelowIsUnbiasedAndInRange) {
  SplitMix64 random(3);
  std::vector<int> counts(6);
  for (int i = 0; i < 60000; ++i) ++counts.at(random.below(6));
  for (const int count : counts) EXPECT_NEAR(count, 10000, 450);
  EXPECT_EQ(random.below(1), 0u);
  const std::uint64_t large = (std::uint64_t{3} << 62) + 1;
  for (int i = 0; i < 1000; ++i) EXPECT_LT(random.below(large), large);
}

TEST(HashName, StableValues) {
  // Computed by a few lines of Python: FNV-1a, then splitmix64.
  EXPECT_EQ(hash_name(1, "model.layers.0.q_proj"), 0xdc40525c41db1971ULL);
  EXPECT_EQ(hash_name(0, ""), 0x5b21f68ffa77f14cULL);
  EXPECT_EQ(hash_name(2, "\xC3\xA9"), 0xb56bad087c888dc7ULL);
  EXPECT_NE(hash_name(1, "a"), hash_name(2, "a"));
  EXPECT_NE(hash_name(1, "a"), hash_name(1, "b"));
}

TEST(Philox, KnownAnswersOfRandom123) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, ~std::uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822ULL),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(KeyedPermutation, IsABijection) {
  std::vector<std::uint64_t> sizes{100, 255, 256, 257, 1000, 4096, 4097, 65537};
  for (std::uint64_t n = 1; n <= 70; ++n) sizes.push_back(n);
  for (const std::uint64_t n : sizes) {
    for (const std::uint64_t key : {0ULL, 1ULL, 0xDEADBEEFULL, ~0ULL}) {
      const KeyedPermutation permutation(n, key);
      std::vector<bool> seen(n);
      for (std::uint64_t i = 0; i < n; ++i) {
        const std::uint64_t j = permutation(i);
        ASSERT_LT(j, n);
        ASSERT_FALSE(seen[j]) << "n " << n << " key " << key;
        ASSERT_EQ(permutation.inverse(j), i) << "n " << n << " key " << key;
        seen[j] = true;
      }
    }
  }
}

TEST(KeyedPermutation, LargeDomainsStayInRange) {
  for (const std::uint64_t n : {std::uint64_t{1} << 40, (std::uint64_t{1} << 62) + 1}) {
    const KeyedPermutation permutation(n, 5);
    for (std::uint64_t i = 0; i < 100; ++i) ASSERT_LT(permutation(n - 1 - i), n);
    for (std::uint64_t i = 0; i < 100; ++i) ASSERT_EQ(permutation.inverse(permutation(i)), i);
  }
}

TEST(KeyedPermutation, KeysGiveEvenlySpreadImages) {
  constexpr std::uint64_t n = 10;
  std::vector<int> counts(n);
  for (std::uint64_t key = 0; key < 20000; ++key) ++counts[KeyedPermutation(n, key)(3)];
  for (const int count : counts) EXPECT_NEAR(count, 2000, 250);
}

}  // namespace
}  // namespace graphlora
