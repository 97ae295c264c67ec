#include "data/activity.hpp"

#include <algorithm>

namespace graphlora {

void keep_active(const ActivityConfig& config, const std::vector<std::int32_t>& user,
                 const std::vector<std::int32_t>& item, std::int32_t users, std::int32_t items,
                 std::vector<std::int64_t>& rows) {
  if (config.minimum <= 1) return;
  std::vector<std::int64_t> of_user(users), of_item(items);
  std::size_t removed = 0;
  do {
    std::fill(of_user.begin(), of_user.end(), 0);
    std::fill(of_item.begin(), of_item.end(), 0);
    for (const std::int64_t row : rows) ++of_user[user[row]], ++of_item[item[row]];
    removed = std::erase_if(rows, [&](std::int64_t row) {
      return of_user[user[row]] < config.minimum || of_item[item[row]] < config.minimum;
    });
    // Real data needs some ten rounds, each over what is left.
  } while (config.rule == "k-core" && removed > 0);
}

}  // namespace graphlora
