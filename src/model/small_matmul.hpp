// Products of small matrices inside a parallel region, where a library call would cost more than
// the product.
#pragma once
#include "model/simd.hpp"

namespace graphlora::simd {

/// One register tile of matmul.
template <int kRows, int kColumns, class C>
GRAPHLORA_INLINE void matmul_tile(std::int64_t depth, const C* a, std::int64_t a_row,
                                  std::int64_t a_depth, const C* b, std::int64_t b_row, C* c,
                                  std::int64_t c_row, bool accumulate) {
  Vec<C> sums[kRows][kColumns] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec<C> right[kColumns];
    for (int j = 0; j < kColumns; ++j) right[j] = load(b + k * b_row + j * kLanes<C>);
    for (int i = 0; i < kRows; ++i) {
      const C left = a[i * a_row + k * a_depth];
      for (int j = 0; j < kColumns; ++j) sums[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      C* to = c + i * c_row + j * kLanes<C>;
      store(to, accumulate ? load(to) + sums[i][j] : sums[i][j]);
    }
  }
}

/// Tiles of kRows rows from row i on, as many as fit; returns the first row that is left.
template <int kRows, class C>
GRAPHLORA_INLINE std::int64_t matmul_rows(std::int64_t i, std::int64_t rows, bool pair,
                                          std::int64_t depth, const C* a, std::int64_t a_row,
                                          std::int64_t a_depth, const C* b, std::int64_t b_row,
                                          C* c, std::int64_t c_row, bool accumulate) {
  for (; i + kRows <= rows; i += kRows) {
    if (pair) {
      matmul_tile<kRows, 2>(depth, a + i * a_row, a_row, a_depth, b, b_row, c + i * c_row, c_row,
                            accumulate);
    } else {
      matmul_tile<kRows, 1>(depth, a + i * a_row, a_row, a_depth, b, b_row, c + i * c_row, c_row,
                            accumulate);
    }
  }
  return i;
}

#if defined(__x86_64__)
// 16 sums in registers beside their operands; with fewer registers they would live in memory.
inline const bool kHas32WideRegisters = __builtin_cpu_supports("avx512f");
#else
inline const bool kHas32WideRegisters = false;
#endif

/// c (rows × columns) = or += a·b. a's element (i, k) is a[i·a_row + k·a_depth], so either order of
/// a will do; b and c are row-major with the given row lengths; `columns` is a multiple of the lane
/// count. Every element is summed in the order of k, in whatever tile it falls.
template <class C>
GRAPHLORA_INLINE void matmul(std::int64_t rows, std::int64_t columns, std::int64_t depth,
                             const C* a, std::int64_t a_row, std::int64_t a_depth, const C* b,
                             std::int64_t b_row, C* c, std::int64_t c_row, bool accumulate) {
  for (std::int64_t j = 0; j < columns;) {
    const bool pair = columns - j >= 2 * kLanes<C>;
    const C* right = b + j;
    C* to = c + j;
    std::int64_t i = 0;
    if (kHas32WideRegisters)
      i = matmul_rows<8>(i, rows, pair, depth, a, a_row, a_depth, right, b_row, to, c_row,
                         accumulate);
    i = matmul_rows<4>(i, rows, pair, depth, a, a_row, a_depth, right, b_row, to, c_row,
                       accumulate);
    i = matmul_rows<2>(i, rows, pair, depth, a, a_row, a_depth, right, b_row, to, c_row,
                       accumulate);
    matmul_rows<1>(i, rows, pair, depth, a, a_row, a_depth, right, b_row, to, c_row, accumulate);
    j += (pair ? 2 : 1) * kLanes<C>;
  }
}

}  // namespace graphlora::simd
