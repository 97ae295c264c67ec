// The median of repetitions, and how sure it is.
#pragma once
#include <optional>
#include <utility>
#include <vector>

namespace graphlora::benchmark {

/// Fewest repetitions that give an interval: with five, even least to greatest covers 94 % only.
inline constexpr int kFewestForInterval = 6;

struct Estimate {
  double median = 0;
  /// Of the median, with at least 95 % confidence, whatever the distribution: two order statistics.
  /// None with fewer than kFewestForInterval values.
  std::optional<std::pair<double, double>> interval = {};
};

/// `values` must not be empty.
Estimate estimate(std::vector<double> values);

/// Ranks (from 0) of the order statistics that bound the median of `count` values with at least 95
/// % confidence: the narrowest symmetric pair.
std::optional<std::pair<int, int>> median_bounds(int count);

}  // namespace graphlora::benchmark
