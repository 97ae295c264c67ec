// Users and items of too few rows are left out.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace graphlora {

struct ActivityConfig {
  std::int64_t minimum = 0;     ///< rows that a user, and an item, must have
  std::string rule = "single";  ///< "single": counted once; "k-core": until all that stay have them
};

/// 1 for each row that stays, 0 for those whose user or item occurs in fewer than `config.minimum`
/// of them. `users`, `items`: bounds of the numbers.
std::vector<std::uint8_t> active_rows(const ActivityConfig& config,
                                      std::span<const std::int32_t> user,
                                      std::span<const std::int32_t> item, std::int32_t users,
                                      std::int32_t items);

}  // namespace graphlora
