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

/// c (rows × columns) = or += a·b. a's element (i, k) is a[i·a_row + k·a_depth], so either order of
/// a will do; b and c are row-major with the given row lengths; `columns` is a multiple of the lane
/// count.
template <class C>
GRAPHLORA_INLINE void matmul(std::int64_t rows, std::int64_t columns, std::int64_t depth,
                             const C* a, std::int64_t a_row, std::int64_t a_depth, const C* b,
                             std::int64_t b_row, C* c, std::int64_t c_row, bool accumulate) {
  constexpr int kTileRows = 4;
  for (std::int64_t j = 0; j < columns;) {
    const bool pair = columns - j >= 2 * kLanes<C>;
    std::int64_t i = 0;
    for (; i + kTileRows <= rows; i += kTileRows) {
      if (pair) {
        matmul_tile<kTileRows, 2>(depth, a + i * a_row, a_row, a_depth, b + j, b_row,
                                  c + i * c_row + j, c_row, accumulate);
      } else {
        matmul_tile<kTileRows, 1>(depth, a + i * a_row, a_row, a_depth, b + j, b_row,
                                  c + i * c_row + j, c_row, accumulate);
      }
    }
    for (; i < rows; ++i) {
      if (pair) {
        matmul_tile<1, 2>(depth, a + i * a_row, a_row, a_depth, b + j, b_row, c + i * c_row + j,
                          c_row, accumulate);
      } else {
        matmul_tile<1, 1>(depth, a + i * a_row, a_row, a_depth, b + j, b_row, c + i * c_row + j,
                          c_row, accumulate);
      }
    }
    j += (pair ? 2 : 1) * kLanes<C>;
  }
}

}  // namespace graphlora::simd
