#include "core/rng.hpp"

#include <cmath>
#include <numbers>

namespace graphlora {
namespace {

constexpr std::uint64_t kGoldenGamma = 0x9E3779B97F4A7C15ULL;

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

}  // namespace

std::uint64_t splitmix64(std::uint64_t x) { return mix(x + kGoldenGamma); }

std::uint64_t hash_name(std::uint64_t seed, std::string_view name) {
  std::uint64_t h = 0xCBF29CE484222325ULL;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return splitmix64(h ^ splitmix64(seed));
}

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ULL * counter[0];
    const std::uint64_t p1 = 0xCD9E8D57ULL * counter[2];
    counter = {
        static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<std::uint32_t>(p1),
        static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return counter;
}

SplitMix64::result_type SplitMix64::operator()() { return mix(state_ += kGoldenGamma); }

double SplitMix64::uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }

double SplitMix64::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

std::uint64_t SplitMix64::below(std::uint64_t n) {
  const std::uint64_t threshold = (0 - n) % n;
  std::uint64_t x = (*this)();
  while (x < threshold) x = (*this)();
  return x % n;
}

KeyedPermutation::KeyedPermutation(std::uint64_t n, std::uint64_t key)
    : n_(n), key_(key), half_bits_(1) {
  while (half_bits_ < 32 && (std::uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
}

std::uint64_t KeyedPermutation::round(std::uint64_t number, std::uint64_t right) const {
  return splitmix64(key_ + splitmix64(right + (number << 60)));
}

std::uint64_t KeyedPermutation::operator()(std::uint64_t i) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  // The Feistel domain is at most four times n, so walking the cycle back into [0, n) takes few
  // steps.
  do {
    std::uint64_t left = i >> half_bits_, right = i & mask;
    for (std::uint64_t number = 0; number < 4; ++number) {
      const std::uint64_t next = left ^ (round(number, right) & mask);
      left = right;
      right = next;
    }
    i = (left << half_bits_) | right;
  } while (i >= n_);
  return i;
}

std::uint64_t KeyedPermutation::inverse(std::uint64_t image) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  do {
    std::uint64_t left = image >> half_bits_, right = image & mask;
    for (std::uint64_t number = 4; number-- > 0;) {
      const std::uint64_t before = right ^ (round(number, left) & mask);
      right = left;
      left = before;
    }
    image = (left << half_bits_) | right;
  } while (image >= n_);
  return image;
}

}  // namespace graphlora
