// Users and items of too few rows are left out.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace graphlora {

struct ActivityConfig {
  std::int64_t minimum = 0;     ///< rows that a user, and an item, must have
  std::string rule = "single";  ///< "single": counted once; "k-core": until all that stay have them
};

/// Removes from `rows` (indices into `user` and `item`; order kept) those whose user or item occurs
/// in fewer than `config.minimum` of them. `users`, `items`: bounds of the numbers.
void keep_active(const ActivityConfig& config, const std::vector<std::int32_t>& user,
                 const std::vector<std::int32_t>& item, std::int32_t users, std::int32_t items,
                 std::vector<std::int64_t>& rows);

}  // namespace graphlora
