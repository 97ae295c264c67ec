// The one way in which two rows of E are multiplied, so that a score has the same bits wherever it
// is computed. Files that use it are compiled without fused multiply-adds.
#pragma once
#include <cstdint>

#include "model/simd.hpp"

namespace graphlora {

/// Sixteen running sums, which compilers turn into vector registers; always in the same order.
template <typename T>
GRAPHLORA_INLINE T dot(const T* a, const T* b, std::int64_t count) {
  constexpr std::int64_t kLanes = 16;
  T lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (; i < count; ++i) lanes[i % kLanes] += a[i] * b[i];
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

}  // namespace graphlora
