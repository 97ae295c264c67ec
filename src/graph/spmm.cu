#include "core/cuda_loop.cuh"
#include "graph/spmm_cuda.hpp"

namespace graphlora {
namespace {

// Neighbouring threads take neighbouring columns of one row, so every row of x is read coalesced.
// A long row is summed by all threads of its block, each row of threads a part of it: degrees
// follow a power law, and a thread alone would keep everybody waiting.
template <class T>
__global__ void sum_rows_kernel(RowSum<T> sum, std::int64_t first, std::int64_t last) {
  __shared__ T part_sums[cuda::kThreads];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int columns = static_cast<int>(blockDim.x), parts = static_cast<int>(blockDim.y);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * parts;
  for (std::int64_t tile = first + static_cast<std::int64_t>(blockIdx.x) * parts; tile < last;
       tile += step) {
    const std::int64_t own = tile + y;
    if (own < last && row_entries(sum, own) < kLongRow) {
      for (std::int64_t column = x; column < sum.width; column += columns)
        sum_row<1>(sum, own, column);
    }
    // From here on every thread of the block goes the same way.
    for (std::int64_t row = tile; row < last && row < tile + parts; ++row) {
      if (row_entries(sum, row) < kLongRow) continue;
      for (std::int64_t base = 0; base < sum.width; base += columns) {
        const std::int64_t column = base + x;
        part_sums[y * columns + x] =
            column < sum.width ? part_sum(sum, row, column, y, parts) : T(0);
        __syncthreads();
        if (y == 0 && column < sum.width)
          finish_parts(sum, row, column, part_sums + x, parts, columns);
        __syncthreads();
      }
    }
  }
}

}  // namespace

template <class T>
void sum_rows_cuda(const RowSum<T>& sum, std::int64_t first, std::int64_t last, CudaStream stream) {
  if (first >= last || sum.width <= 0) return;
  const unsigned x = cuda::power_of_two(sum.width, 64), y = cuda::kThreads / x;
  sum_rows_kernel<<<cuda::blocks_for(last - first, y, cuda::kMaxBlocks), dim3(x, y), 0, stream>>>(
      sum, first, last);
  cuda::check_launch("sum_rows");
}

template void sum_rows_cuda(const RowSum<float>&, std::int64_t, std::int64_t, CudaStream);
template void sum_rows_cuda(const RowSum<double>&, std::int64_t, std::int64_t, CudaStream);

}  // namespace graphlora
