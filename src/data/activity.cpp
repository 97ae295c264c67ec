#include "data/activity.hpp"

#include <algorithm>

namespace graphlora {

std::vector<std::uint8_t> active_rows(const ActivityConfig& config,
                                      std::span<const std::int32_t> user,
                                      std::span<const std::int32_t> item, std::int32_t users,
                                      std::int32_t items) {
  std::vector<std::uint8_t> keep(user.size(), 1);
  std::vector<std::int64_t> of_user(users), of_item(items);
  bool again = true;
  while (again) {  // real data needs some ten rounds for a core
    std::fill(of_user.begin(), of_user.end(), 0);
    std::fill(of_item.begin(), of_item.end(), 0);
    for (std::size_t row = 0; row < keep.size(); ++row)
      if (keep[row]) ++of_user[user[row]], ++of_item[item[row]];
    again = false;
    for (std::size_t row = 0; row < keep.size(); ++row) {
      if (!keep[row] ||
          (of_user[user[row]] >= config.minimum && of_item[item[row]] >= config.minimum))
        continue;
      keep[row] = 0;
      again = config.rule == "k-core";
    }
  }
  return keep;
}

}  // namespace graphlora
