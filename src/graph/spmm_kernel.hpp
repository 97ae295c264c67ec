// The arithmetic of the sparse sums, row by row, for CPU and CUDA alike. No torch headers here.
#pragma once
#include <cstdint>

#include "core/host_device.hpp"

namespace graphlora {

/// out[i] = init[i] + Σ over k in the two runs of row i of x[index[k]], rows of `width` numbers.
template <class T>
struct RowSum {
  const T* x = nullptr;  ///< rows of `width`
  /// `stride` a row: the runs are [p[0], p[drop_begin]) and [p[drop_end], p[groups]).
  const std::int64_t* pointers = nullptr;
  std::int64_t stride = 1;
  int drop_begin = 1, drop_end = 1, groups = 1;
  const std::int32_t* index = nullptr;
  std::int64_t index_size = 0;
  const T* init = nullptr;  ///< null: zeros
  T* out = nullptr;
  std::int64_t width = 0;
  std::int32_t limit = 0;  ///< rows of x from here on count as zero
};

/// Adds x[index[k]][column … column+W) for k in [begin, end) to `sum`, in that order.
template <int W, class T>
GRAPHLORA_HOST_DEVICE inline void add_run(const RowSum<T>& a, std::int64_t begin, std::int64_t end,
                                          std::int64_t column, T* sum) {
#ifndef __CUDA_ARCH__
  // Rows of x lie anywhere in memory: ask for them well before they are added. The index runs on
  // into the next rows, so short rows profit as well. Into the second-level cache, which has more
  // requests under way than the first: measured twice as fast.
  constexpr std::int64_t kAhead = 64;
  constexpr int kLineNumbers = 64 / sizeof(T);
  static constexpr T kZeros[W] = {};
#endif
  for (std::int64_t k = begin; k < end; ++k) {
    const std::int32_t j = a.index[k];
#ifdef __CUDA_ARCH__
    if (j >= a.limit) continue;
    const T* row = a.x + j * a.width + column;
#else
    // A choice of pointers instead of branches, which would be mispredicted.
    const std::int32_t next = a.index[k + kAhead < a.index_size ? k + kAhead : k];
    const T* early = next < a.limit ? a.x + next * a.width + column : kZeros;
    for (int w = 0; w < W; w += kLineNumbers) __builtin_prefetch(early + w, 0, 2);
    const T* row = j < a.limit ? a.x + j * a.width + column : kZeros;
#endif
    for (int w = 0; w < W; ++w) sum[w] += row[w];
  }
}

/// Numbers [column, column+W) of one row of the result.
template <int W, class T>
GRAPHLORA_HOST_DEVICE inline void sum_row(const RowSum<T>& a, std::int64_t i, std::int64_t column) {
  T sum[W] = {};
  if (a.init != nullptr) {
    for (int w = 0; w < W; ++w) sum[w] = a.init[i * a.width + column + w];
  }
  const std::int64_t* p = a.pointers + i * a.stride;
  add_run<W>(a, p[0], p[a.drop_begin], column, sum);
  add_run<W>(a, p[a.drop_end], p[a.groups], column, sum);
  for (int w = 0; w < W; ++w) a.out[i * a.width + column + w] = sum[w];
}

/// Rows with this many entries are summed in parts side by side on CUDA: popular items.
inline constexpr std::int64_t kLongRow = 1024;

template <class T>
GRAPHLORA_HOST_DEVICE inline std::int64_t row_entries(const RowSum<T>& a, std::int64_t i) {
  const std::int64_t* p = a.pointers + i * a.stride;
  return p[a.drop_begin] - p[0] + p[a.groups] - p[a.drop_end];
}

/// Of row i the sum over the entries of one of `parts` equal parts, in order.
template <class T>
GRAPHLORA_HOST_DEVICE inline T part_sum(const RowSum<T>& a, std::int64_t i, std::int64_t column,
                                        int part, int parts) {
  const std::int64_t* p = a.pointers + i * a.stride;
  const std::int64_t first_run = p[a.drop_begin] - p[0], entries = row_entries(a, i);
  const std::int64_t begin = entries * part / parts, end = entries * (part + 1) / parts;
  const auto least = [](std::int64_t x, std::int64_t y) { return x < y ? x : y; };
  T sum[1] = {};
  add_run<1>(a, p[0] + least(begin, first_run), p[0] + least(end, first_run), column, sum);
  const std::int64_t second = p[a.drop_end] - first_run;
  add_run<1>(a, second + (begin > first_run ? begin : first_run),
             second + (end > first_run ? end : first_run), column, sum);
  return sum[0];
}

/// Number `column` of row i from its parts' sums, part p's at part_sums[p·step].
template <class T>
GRAPHLORA_HOST_DEVICE inline void finish_parts(const RowSum<T>& a, std::int64_t i,
                                               std::int64_t column, const T* part_sums, int parts,
                                               int step) {
  T sum = a.init != nullptr ? a.init[i * a.width + column] : T(0);
  for (int part = 0; part < parts; ++part) sum += part_sums[part * step];
  a.out[i * a.width + column] = sum;
}

}  // namespace graphlora
