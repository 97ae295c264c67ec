// Loops whose bodies run on CUDA. Declared here without CUDA's or torch's headers; a .cu file that
// includes core/cuda_loop.cuh instantiates them for the bodies it is to compile.
#pragma once
#include <cstdint>

struct CUstream_st;

namespace graphlora {

using CudaStream = CUstream_st*;  ///< cudaStream_t

/// body(row, column) for all row < rows and column < columns, in any order, asynchronously. Throws
/// std::runtime_error naming the kernel if the launch fails.
template <class Body>
void cuda_loop(const char* name, std::int64_t rows, std::int64_t columns, const Body& body,
               CudaStream stream);

/// body.finish(row, Σ over k < body.terms(row) of body.term(row, k)) for all row < rows: a warp
/// sums a row, in a fixed order. Terms are numbers, or trivially copyable structs of them with a
/// zero as their default and +=.
template <class Body>
void cuda_row_sums(const char* name, std::int64_t rows, const Body& body, CudaStream stream);

}  // namespace graphlora
