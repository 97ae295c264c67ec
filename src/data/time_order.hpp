// The order of rows by time.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace graphlora {

/// Row numbers (fewer than 2^32 rows) by time, ties by number. Buckets of equal width are filled
/// first and sorted one by one on all threads: linear where times are spread.
std::vector<std::uint32_t> time_order(std::span<const std::int64_t> time);

}  // namespace graphlora
