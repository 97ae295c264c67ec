// The CUDA kernel of the sparse sums, without torch headers.
#pragma once
#include "core/cuda_loop.hpp"
#include "graph/spmm_kernel.hpp"

namespace graphlora {

/// Rows [first, last) of the result, asynchronously on `stream`; pointers are on its device. Throws
/// std::runtime_error if the launch fails.
template <class T>
void sum_rows_cuda(const RowSum<T>& sum, std::int64_t first, std::int64_t last, CudaStream stream);

}  // namespace graphlora
