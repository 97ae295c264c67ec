// The order by time against a stable sort, over narrow, wide and lopsided times and thread counts.
#include "data/time_order.hpp"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

namespace graphlora {
namespace {

TEST(TimeOrder, IsAStableSort) {
  std::mt19937_64 random(7);
  const std::vector<std::function<std::int64_t(std::size_t)>> times{
      [&](std::size_t) { return 5; },
      [&](std::size_t) { return static_cast<std::int64_t>(random() % 50); },
      [&](std::size_t) { return static_cast<std::int64_t>(random() % 200000); },
      [&](std::size_t) { return 1'577'836'800'000 + static_cast<std::int64_t>(random() >> 28); },
      [&](std::size_t) {
        return static_cast<std::int64_t>(random());
      },                    // the whole range of 64 bits
      [&](std::size_t i) {  // one early row, all others close together
        return i == 17 ? 0 : 1'600'000'000 + static_cast<std::int64_t>(random() % 1000);
      },
      [&](std::size_t i) { return -static_cast<std::int64_t>(i / 3); },
      [&](std::size_t i) { return static_cast<std::int64_t>(i / 3); }};
  const int before = at::get_num_threads();
  for (std::size_t kind = 0; kind < times.size(); ++kind) {
    for (const std::size_t rows : {0, 1, 2, 100, 30000}) {
      std::vector<std::int64_t> time(rows);
      for (std::size_t i = 0; i < rows; ++i) time[i] = times[kind](i);
      std::vector<std::uint32_t> expected(rows);
      std::iota(expected.begin(), expected.end(), 0U);
      std::stable_sort(expected.begin(), expected.end(),
                       [&](std::uint32_t a, std::uint32_t b) { return time[a] < time[b]; });
      for (const int threads : {1, 3}) {
        at::set_num_threads(threads);
        EXPECT_EQ(time_order(time), expected) << "times " << kind << ", rows " << rows;
      }
    }
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace graphlora
