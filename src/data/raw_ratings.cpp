#include "data/raw_ratings.hpp"

#include "core/error.hpp"

namespace graphlora {

std::int32_t IdTable::intern(std::string_view id) {
  if (const std::int32_t known = find(id); known >= 0) return known;
  if (ids_.size() >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw DataError("more than 2^31-1 different ids: split the data before preparing it");
  const std::int32_t number = size();
  ids_.emplace_back(id);
  numbers_.emplace(ids_.back(), number);
  return number;
}

std::int32_t IdTable::find(std::string_view id) const {
  const auto found = numbers_.find(id);
  return found == numbers_.end() ? -1 : found->second;
}

void RawRatings::add(std::string_view user_id, std::string_view item_id, float value,
                     std::int64_t when) {
  if (!years.holds(when)) {
    ++outside_years;
    return;
  }
  user.push_back(users.intern(user_id));
  item.push_back(items.intern(item_id));
  rating.push_back(value);
  time.push_back(when);
}

void RawRatings::set_title(std::string_view item_id, std::string title) {
  const std::int32_t number = items.find(item_id);
  if (number < 0) return;
  if (titles.size() <= static_cast<std::size_t>(number)) titles.resize(items.size());
  if (titles[number].empty()) titles[number] = std::move(title);
}

}  // namespace graphlora
