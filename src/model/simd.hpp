// Vectors of 64 bytes for the fused row kernels: loads and stores that convert bf16, and exp.
// T: type in memory (bf16, float, double); Compute<T>: type of the arithmetic (float, or double for
// double).
#pragma once
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Compiles a function for each instruction set and picks one at start. Sanitizers' run times are
// not ready when the picking runs, so their builds take the default.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define GRAPHLORA_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GRAPHLORA_CLONES
#endif
#define GRAPHLORA_INLINE __attribute__((always_inline)) inline

// Every function that passes vectors by value is inlined, so no calling convention is at stake.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace graphlora::simd {

template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class C>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(64)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(64)));
};
/// 16 floats or 8 doubles.
template <class C>
using Vec = typename VectorOf<C>::type;
typedef std::uint16_t VecU16 __attribute__((vector_size(32)));
typedef std::uint32_t VecU32 __attribute__((vector_size(64)));
typedef std::int32_t VecI32 __attribute__((vector_size(64)));

template <class C>
inline constexpr std::int64_t kLanes = 64 / sizeof(C);

/// Smallest multiple of the lane count that holds n.
template <class C>
constexpr std::int64_t padded(std::int64_t n) {
  return (n + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
}

template <class C>
GRAPHLORA_INLINE Vec<C> broadcast(C value) {
  return Vec<C>{} + value;
}

template <class T>
GRAPHLORA_INLINE Vec<Compute<T>> load(const T* from) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    VecU16 half;
    std::memcpy(&half, from, sizeof half);
    return reinterpret_cast<Vec<float>>(__builtin_convertvector(half, VecU32) << 16);
  } else {
    Vec<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
}

template <class T>
GRAPHLORA_INLINE void store(T* to, Vec<Compute<T>> v) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    // Round to nearest even; NaN keeps a mantissa bit.
    const auto bits = reinterpret_cast<VecU32>(v);
    const VecU32 rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
    const VecU16 half = __builtin_convertvector(v == v ? rounded : (VecU32{} + 0x7FC0U), VecU16);
    std::memcpy(to, &half, sizeof half);
  } else {
    std::memcpy(to, &v, sizeof v);
  }
}

/// The first n ≤ lanes elements, zeros behind them.
template <class T>
GRAPHLORA_INLINE Vec<Compute<T>> load(const T* from, std::int64_t n) {
  if (n >= kLanes<Compute<T>>) return simd::load(from);
  T part[kLanes<Compute<T>>] = {};
  std::copy_n(from, n, part);
  return simd::load(part);
}

template <class T>
GRAPHLORA_INLINE void store(T* to, Vec<Compute<T>> v, std::int64_t n) {
  if (n >= kLanes<Compute<T>>) {
    simd::store(to, v);
    return;
  }
  T part[kLanes<Compute<T>>];
  simd::store(part, v);
  std::copy_n(part, n, to);
}

/// All lanes by `join`, halves at a time, in every lane.
template <class V, class Join>
GRAPHLORA_INLINE V across(V v, const Join& join) {
  if constexpr (sizeof(v[0]) == sizeof(float)) {
    v = join(v,
             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = join(v,
             __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = join(v,
             __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return join(
        v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  } else {
    v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    return join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
  }
}
template <class V>
GRAPHLORA_INLINE auto sum(V v) {
  return across(
      v, [](V a, V b) __attribute__((always_inline)) { return a + b; })[0];
}
template <class V>
GRAPHLORA_INLINE auto largest(V v) {
  return across(
      v, [](V a, V b) __attribute__((always_inline)) { return a > b ? a : b; })[0];
}

/// eˣ to 2 ulp for float (Cephes' polynomial; 0 below −87.3, finite up to 88), the library's for
/// double.
GRAPHLORA_INLINE Vec<float> exp(Vec<float> x) {
  const Vec<float> low = broadcast(-87.33F), high = broadcast(88.0F);
  const auto underflow = x < low;
  x = x < low ? low : x;
  x = x > high ? high : x;
  // Adding 1.5·2^23 rounds to an integer in the low mantissa bits.
  const Vec<float> shifted = x * 1.44269504F + 12582912.0F;
  const VecI32 exponent = reinterpret_cast<VecI32>(shifted) << 23;
  const Vec<float> n = shifted - 12582912.0F;
  const Vec<float> r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  Vec<float> p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const auto result = reinterpret_cast<Vec<float>>(reinterpret_cast<VecI32>(p) + exponent);
  return underflow ? Vec<float>{} : result;
}
GRAPHLORA_INLINE Vec<double> exp(Vec<double> x) {
  Vec<double> y;
  for (std::int64_t i = 0; i < kLanes<double>; ++i) y[i] = std::exp(x[i]);
  return y;
}

/// 1/(1+e⁻ˣ).
template <class V>
GRAPHLORA_INLINE V sigmoid(V x) {
  return 1 / (1 + exp(-x));
}

}  // namespace graphlora::simd
