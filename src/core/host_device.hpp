// What kernel headers share: they compile as C++17 without torch's tensors, for CPU and CUDA alike.
#pragma once
#include <type_traits>

#ifdef __CUDACC__
#define GRAPHLORA_HOST_DEVICE __host__ __device__
#else
#define GRAPHLORA_HOST_DEVICE
#endif

namespace graphlora::kernel {

/// Type of the arithmetic on numbers that are stored as T: double for double, float for the others.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Lanes that share a sum over a row: a warp's on CUDA, as many in turn on the CPU.
inline constexpr int kSumLanes = 32;

/// The terms of a row that belong to one lane, in order.
template <class Body>
GRAPHLORA_HOST_DEVICE inline auto lane_sum(const Body& body, long long row, int lane) {
  decltype(body.term(0, 0)) sum{};
  const long long terms = body.terms(row);
  for (long long k = lane; k < terms; k += kSumLanes) sum += body.term(row, k);
  return sum;
}

}  // namespace graphlora::kernel
