// CUDA kernels of the sparse sums, without torch headers.
#pragma once
#include <cuda_runtime_api.h>

#include "graph/spmm_kernel.hpp"

namespace graphlora {

/// Rows [first, last) of the result, asynchronously on `stream`; pointers are on its device. Throws
/// std::runtime_error if the launch fails.
void sum_rows_cuda(const RowSum<float>& sum, std::int64_t first, std::int64_t last,
                   cudaStream_t stream);
void sum_rows_cuda(const RowSum<double>& sum, std::int64_t first, std::int64_t last,
                   cudaStream_t stream);

/// out[i] = x[rows[i]] for i < count, rows of `width` numbers.
void gather_rows_cuda(const float* x, const std::int64_t* rows, std::int64_t count,
                      std::int64_t width, float* out, cudaStream_t stream);
void gather_rows_cuda(const double* x, const std::int64_t* rows, std::int64_t count,
                      std::int64_t width, double* out, cudaStream_t stream);

}  // namespace graphlora
