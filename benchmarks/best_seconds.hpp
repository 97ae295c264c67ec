// Wall time of what the micro-benchmarks measure.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

namespace graphlora {

/// Seconds of the fastest of `repeats` calls, after one that is not counted.
inline double best_seconds(int repeats, const std::function<void()>& body) {
  body();
  double best = INFINITY;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace graphlora
