#include "data/time_order.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <numeric>

namespace graphlora {

std::vector<std::uint32_t> time_order(std::span<const std::int64_t> time) {
  std::vector<std::uint32_t> order(time.size());
  if (std::is_sorted(time.begin(), time.end())) {
    std::iota(order.begin(), order.end(), 0U);
    return order;
  }
  constexpr int kBucketBits = 16;
  const auto [first, last] = std::minmax_element(time.begin(), time.end());
  const std::int64_t begin = *first;
  const auto offset = [&](std::int64_t t) {
    return static_cast<std::uint64_t>(t) - static_cast<std::uint64_t>(begin);
  };
  const int shift = std::max(0, static_cast<int>(std::bit_width(offset(*last))) - kBucketBits);
  const auto buckets = static_cast<std::int64_t>(offset(*last) >> shift) + 1;

  std::vector<std::int64_t> bucket_begin(buckets + 1, 0);
  for (const std::int64_t t : time) ++bucket_begin[(offset(t) >> shift) + 1];
  std::partial_sum(bucket_begin.begin(), bucket_begin.end(), bucket_begin.begin());
  std::vector<std::int64_t> next(bucket_begin.begin(), bucket_begin.end() - 1);
  for (std::size_t row = 0; row < time.size(); ++row)
    order[next[offset(time[row]) >> shift]++] = static_cast<std::uint32_t>(row);
  if (shift == 0) return order;
  at::parallel_for(0, buckets, 64, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t bucket = from; bucket < to; ++bucket) {
      std::sort(order.begin() + bucket_begin[bucket], order.begin() + bucket_begin[bucket + 1],
                [&](std::uint32_t a, std::uint32_t b) {
                  return time[a] != time[b] ? time[a] < time[b] : a < b;
                });
    }
  });
  return order;
}

}  // namespace graphlora
