#include "data/raw_ratings.hpp"

#include <algorithm>
#include <functional>

#include "core/error.hpp"

namespace graphlora {

namespace {

std::size_t hash_of(std::string_view id) { return std::hash<std::string_view>()(id); }
std::uint32_t tag_of(std::size_t hash) { return static_cast<std::uint32_t>(hash >> 32); }

}  // namespace

std::size_t IdTable::slot_of(std::string_view id, std::size_t hash) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash & mask;
  while (slots_[at].number >= 0 &&
         (slots_[at].tag != tag_of(hash) || (*this)[slots_[at].number] != id))
    at = (at + 1) & mask;
  return at;
}

void IdTable::grow() {
  slots_.assign(std::max<std::size_t>(16, 2 * slots_.size()), {});
  for (std::int32_t number = 0; number < size(); ++number) {
    const std::size_t hash = hash_of((*this)[number]), mask = slots_.size() - 1;
    std::size_t at = hash & mask;
    while (slots_[at].number >= 0) at = (at + 1) & mask;
    slots_[at] = {tag_of(hash), number};
  }
}

std::int32_t IdTable::intern(std::string_view id) {
  if (2 * begin_.size() > slots_.size()) grow();
  const std::size_t hash = hash_of(id);
  Slot& slot = slots_[slot_of(id, hash)];
  if (slot.number >= 0) return slot.number;
  if (size() == std::numeric_limits<std::int32_t>::max())
    throw DataError("more than 2^31-1 different ids: split the data before preparing it");
  slot = {tag_of(hash), size()};
  bytes_ += id;
  begin_.push_back(bytes_.size());
  return slot.number;
}

std::int32_t IdTable::find(std::string_view id) const {
  return slots_.empty() ? -1 : slots_[slot_of(id, hash_of(id))].number;
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

bool RawRatings::lacks_title(std::string_view item_id) const {
  const std::int32_t number = items.find(item_id);
  return number >= 0 &&
         (static_cast<std::size_t>(number) >= titles.size() || titles[number].empty());
}

void RawRatings::set_title(std::string_view item_id, std::string title) {
  const std::int32_t number = items.find(item_id);
  if (number < 0) return;
  if (titles.size() <= static_cast<std::size_t>(number)) titles.resize(items.size());
  if (titles[number].empty()) titles[number] = std::move(title);
}

}  // namespace graphlora
