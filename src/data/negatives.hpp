// Negatives for implicit data: rows that say "not chosen" beside each click.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace graphlora {

struct Negative {
  std::uint32_t row;  ///< the click it stands beside (same user, same time)
  std::int32_t item;  ///< 0…V-1
};

/// k negatives for each click, rows ascending in time, no (user, item) twice. An item is drawn with
/// probability ~ (clicks on it up to and including that time)^0.75 among those the user clicks at
/// no time and was not given before. Fewer where no such item is left. Ascending in row; the same
/// seed gives the same.
std::vector<Negative> draw_negatives(std::span<const std::int32_t> user,
                                     std::span<const std::int32_t> item,
                                     std::span<const std::int64_t> time, std::int32_t users,
                                     std::int32_t items, std::int64_t k, std::uint64_t seed);

}  // namespace graphlora
