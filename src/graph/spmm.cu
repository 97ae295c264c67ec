#include <algorithm>
#include <stdexcept>
#include <string>

#include "graph/spmm_cuda.hpp"

namespace graphlora {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = std::int64_t{1} << 20;  // beyond, threads take several items

// Neighbouring threads take neighbouring columns of one row, so every row of x is read coalesced.
template <class T>
__global__ void sum_rows_kernel(RowSum<T> sum, std::int64_t first, std::int64_t last) {
  const std::int64_t items = (last - first) * sum.width;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t item = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
       item < items; item += step) {
    sum_row<1>(sum, first + item / sum.width, item % sum.width);
  }
}

template <class T>
__global__ void gather_rows_kernel(const T* x, const std::int64_t* rows, std::int64_t count,
                                   std::int64_t width, T* out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t item = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
       item < count * width; item += step) {
    out[item] = x[rows[item / width] * width + item % width];
  }
}

unsigned blocks_for(std::int64_t items) {
  return static_cast<unsigned>(std::min(kMaxBlocks, (items + kThreads - 1) / kThreads));
}

void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(status));
  }
}

template <class T>
void launch_sum(const RowSum<T>& sum, std::int64_t first, std::int64_t last, cudaStream_t stream) {
  const std::int64_t items = (last - first) * sum.width;
  if (items <= 0) return;
  sum_rows_kernel<<<blocks_for(items), kThreads, 0, stream>>>(sum, first, last);
  check_launch("sum_rows");
}

template <class T>
void launch_gather(const T* x, const std::int64_t* rows, std::int64_t count, std::int64_t width,
                   T* out, cudaStream_t stream) {
  if (count * width <= 0) return;
  gather_rows_kernel<<<blocks_for(count * width), kThreads, 0, stream>>>(x, rows, count, width,
                                                                         out);
  check_launch("gather_rows");
}

}  // namespace

void sum_rows_cuda(const RowSum<float>& sum, std::int64_t first, std::int64_t last,
                   cudaStream_t stream) {
  launch_sum(sum, first, last, stream);
}
void sum_rows_cuda(const RowSum<double>& sum, std::int64_t first, std::int64_t last,
                   cudaStream_t stream) {
  launch_sum(sum, first, last, stream);
}
void gather_rows_cuda(const float* x, const std::int64_t* rows, std::int64_t count,
                      std::int64_t width, float* out, cudaStream_t stream) {
  launch_gather(x, rows, count, width, out, stream);
}
void gather_rows_cuda(const double* x, const std::int64_t* rows, std::int64_t count,
                      std::int64_t width, double* out, cudaStream_t stream) {
  launch_gather(x, rows, count, width, out, stream);
}

}  // namespace graphlora
