// The matrix unit of a CPU (AMX): products of small bf16 matrices summed in fp32, by the kernels
// that LibTorch makes for each shape and thread. Few shapes should occur.
#pragma once
#include <ATen/native/CPUBlas.h>
#include <c10/util/BFloat16.h>

#include "model/simd.hpp"

// Of functions that run only where there is a matrix unit: what such CPUs have besides. Clang takes
// no vectors as arguments across this border.
#if defined(__x86_64__) && !defined(__clang__)
#include <immintrin.h>
#define GRAPHLORA_HAS_BF16_VECTORS
#define GRAPHLORA_MATRIX_UNIT \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,bmi2")))
#else
#define GRAPHLORA_MATRIX_UNIT
#endif
#define GRAPHLORA_MATRIX_UNIT_INLINE GRAPHLORA_MATRIX_UNIT GRAPHLORA_INLINE

namespace graphlora::matrix_unit {

/// Columns of a product, at most, and the depth of one step of the unit. Any even depth will do.
inline constexpr std::int64_t kColumns = 64, kDepth = 32;

#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
/// Whether this machine has one.
inline bool available() { return at::native::cpublas::could_pack(at::kBFloat16); }

/// c (rows × columns) = or += a (rows × depth)·b. Rows of a and c are `a_row` and `c_row` long. b's
/// stand in pairs: numbers 2·(i·columns + c) and the one behind are its elements (2i, c) and (2i +
/// 1, c).
inline void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth,
                     const at::BFloat16* a, std::int64_t a_row, const at::BFloat16* b, float* c,
                     std::int64_t c_row, bool accumulate) {
  at::native::cpublas::brgemm(rows, columns, depth, a_row, columns, c_row, accumulate, a, b, c,
                              true);
}
#else
inline bool available() { return false; }
inline void multiply(std::int64_t, std::int64_t, std::int64_t, const at::BFloat16*, std::int64_t,
                     const at::BFloat16*, float*, std::int64_t, bool) {}
#endif

/// Rounded to nearest even; what is below the smallest normal number may become zero.
GRAPHLORA_MATRIX_UNIT_INLINE void store(at::BFloat16* to, simd::Vec<float> v) {
#ifdef GRAPHLORA_HAS_BF16_VECTORS
  const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
  std::memcpy(to, &half, sizeof half);
#else
  simd::store(to, v);
#endif
}

/// 32 numbers, rounded so, to a whole cache line and past the caches, for what is larger than they
/// are: no line is read before it is written. Others may read at the end of the thread's Use.
GRAPHLORA_MATRIX_UNIT_INLINE void store_line(at::BFloat16* to, simd::Vec<float> low,
                                             simd::Vec<float> high) {
#ifdef GRAPHLORA_HAS_BF16_VECTORS
  const __m512bh line =
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(line));
#else
  simd::store(to, low);
  simd::store(to + simd::kLanes<float>, high);
#endif
}

/// A thread's use of the unit, whose end leaves it to others.
class Use {
 public:
  Use() = default;
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  ~Use() {
#ifdef GRAPHLORA_HAS_BF16_VECTORS
    _mm_sfence();
#endif
#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
    at::native::cpublas::brgemm_release(true);
#endif
  }
};

}  // namespace graphlora::matrix_unit
