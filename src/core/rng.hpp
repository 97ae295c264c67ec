// Counter-based and hash-based random numbers: the same bits on every machine, rank and thread
// count.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace graphlora {

/// One output of SplitMix64 with state `x` (Steele, Lea, Flood 2014): advances by the golden gamma,
/// then mixes.
std::uint64_t splitmix64(std::uint64_t x);

/// Stable 64-bit hash of a name (FNV-1a, then splitmix64), to derive a seed from (seed, name).
std::uint64_t hash_name(std::uint64_t seed, std::string_view name);

/// Philox4x32-10 (Salmon et al. 2011): four random words from a 128-bit counter and a 64-bit key.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::uint64_t key);

/// Sequential generator over splitmix64; satisfies UniformRandomBitGenerator.
class SplitMix64 {
 public:
  using result_type = std::uint64_t;
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Standard normal (Box-Muller, one value per call).
  double normal();
  /// Uniform in [0, n) without modulo bias; n > 0.
  std::uint64_t below(std::uint64_t n);

 private:
  std::uint64_t state_;
};

/// A pseudo-random bijection of [0, n) given by a key: Feistel network with cycle walking.
/// Nothing is stored, so an epoch's order over any number of rows costs no memory.
class KeyedPermutation {
 public:
  KeyedPermutation(std::uint64_t n, std::uint64_t key);
  std::uint64_t operator()(std::uint64_t i) const;  ///< i < n
  /// The i whose image is `image` < n.
  std::uint64_t inverse(std::uint64_t image) const;

 private:
  std::uint64_t round(std::uint64_t number, std::uint64_t right) const;

  std::uint64_t n_, key_;
  int half_bits_;
};

}  // namespace graphlora
