// Definitions of core/cuda_loop.hpp; only .cu files include this.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/cuda_loop.hpp"
#include "core/host_device.hpp"

namespace graphlora {
namespace cuda {

inline constexpr int kThreads = 256;
inline constexpr std::int64_t kMaxBlocks = std::int64_t{1} << 20;  // beyond, threads take several
inline constexpr std::int64_t kMaxBlocksY = 65535;

inline void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA kernel ") + kernel + ": " +
                             cudaGetErrorString(status));
  }
}

/// Smallest power of two that is at least n, up to `most`.
inline unsigned power_of_two(std::int64_t n, unsigned most) {
  unsigned power = 1;
  while (power < n && power < most) power *= 2;
  return power;
}

inline unsigned blocks_for(std::int64_t items, std::int64_t per_block, std::int64_t most) {
  return static_cast<unsigned>(std::min(most, (items + per_block - 1) / per_block));
}

// Neighbouring threads take neighbouring columns of one row, so rows are read coalesced.
template <class Body>
__global__ void loop_kernel(std::int64_t rows, std::int64_t columns, Body body) {
  const std::int64_t row_step = static_cast<std::int64_t>(gridDim.x) * blockDim.y;
  const std::int64_t column_step = static_cast<std::int64_t>(gridDim.y) * blockDim.x;
  const std::int64_t first_column =
      static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
       row < rows; row += row_step) {
    for (std::int64_t column = first_column; column < columns; column += column_step)
      body(row, column);
  }
}

/// __shfl_down_sync over the whole warp for any sum, word by word.
template <class Sum>
__device__ Sum shuffle_down(const Sum& sum, int offset) {
  static_assert(std::is_trivially_copyable_v<Sum> && sizeof(Sum) % sizeof(unsigned) == 0);
  unsigned words[sizeof(Sum) / sizeof(unsigned)];
  std::memcpy(words, &sum, sizeof(Sum));
  for (unsigned& word : words) word = __shfl_down_sync(0xFFFFFFFFU, word, offset);
  Sum shuffled;
  std::memcpy(&shuffled, words, sizeof(Sum));
  return shuffled;
}

// A row of threads is a warp, so all of its lanes stand in the same row.
template <class Body>
__global__ void row_sums_kernel(std::int64_t rows, Body body) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.y;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
       row < rows; row += step) {
    auto sum = kernel::lane_sum(body, row, static_cast<int>(threadIdx.x));
    for (int offset = kernel::kSumLanes / 2; offset > 0; offset /= 2)
      sum += shuffle_down(sum, offset);
    if (threadIdx.x == 0) body.finish(row, sum);
  }
}

}  // namespace cuda

template <class Body>
void cuda_loop(const char* name, std::int64_t rows, std::int64_t columns, const Body& body,
               CudaStream stream) {
  if (rows <= 0 || columns <= 0) return;
  const unsigned x = cuda::power_of_two(columns, cuda::kThreads), y = cuda::kThreads / x;
  const dim3 grid(cuda::blocks_for(rows, y, cuda::kMaxBlocks),
                  cuda::blocks_for(columns, x, cuda::kMaxBlocksY));
  cuda::loop_kernel<<<grid, dim3(x, y), 0, stream>>>(rows, columns, body);
  cuda::check_launch(name);
}

template <class Body>
void cuda_row_sums(const char* name, std::int64_t rows, const Body& body, CudaStream stream) {
  if (rows <= 0) return;
  const unsigned y = cuda::kThreads / kernel::kSumLanes;
  cuda::row_sums_kernel<<<cuda::blocks_for(rows, y, cuda::kMaxBlocks), dim3(kernel::kSumLanes, y),
                          0, stream>>>(rows, body);
  cuda::check_launch(name);
}

}  // namespace graphlora
