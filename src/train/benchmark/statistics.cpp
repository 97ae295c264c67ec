#include "train/benchmark/statistics.hpp"

#include <algorithm>
#include <cmath>

namespace graphlora::benchmark {

std::optional<std::pair<int, int>> median_bounds(int count) {
  // The median lies below the k-th value from below with the probability that at most k of `count`
  // fair coins show heads; the same from above.
  constexpr double kTail = 0.025;
  double below = 0;
  int rank = -1;
  for (int k = 0; 2 * k < count - 1; ++k) {
    below += std::exp(std::lgamma(count + 1) - std::lgamma(k + 1) - std::lgamma(count - k + 1) -
                      count * std::log(2));
    if (below > kTail) break;
    rank = k;
  }
  if (rank < 0) return std::nullopt;
  return std::pair(rank, count - 1 - rank);
}

Estimate estimate(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t count = values.size(), middle = count / 2;
  Estimate result;
  result.median = count % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
  if (const auto bounds = median_bounds(static_cast<int>(count)))
    result.interval = {values[static_cast<std::size_t>(bounds->first)],
                       values[static_cast<std::size_t>(bounds->second)]};
  return result;
}

}  // namespace graphlora::benchmark
