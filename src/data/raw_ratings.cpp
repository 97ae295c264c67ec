#include "data/raw_ratings.hpp"

#include <algorithm>
#include <array>
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

std::int32_t IdTable::intern(std::string_view id) { return intern(id, hash_of(id)); }

std::int32_t IdTable::intern(std::string_view id, std::size_t hash) {
  if (2 * begin_.size() > slots_.size()) grow();
  Slot& slot = slots_[slot_of(id, hash)];
  if (slot.number >= 0) return slot.number;
  if (size() == std::numeric_limits<std::int32_t>::max())
    throw DataError("more than 2^31-1 different ids: split the data before preparing it");
  slot = {tag_of(hash), size()};
  bytes_ += id;
  begin_.push_back(bytes_.size());
  return slot.number;
}

void IdTable::intern(std::span<const std::string_view> ids, std::span<std::int32_t> numbers) {
  // A look-up reads a slot, then where the id begins, then the id: three misses of the cache one
  // behind the other. Those of a group of ids overlap.
  constexpr std::size_t kGroup = 32;
  std::array<std::size_t, kGroup> hash;
  while (!ids.empty()) {
    const std::size_t count = std::min(kGroup, ids.size());
    for (std::size_t i = 0; i < count; ++i) hash[i] = hash_of(ids[i]);
    if (!slots_.empty()) {
      const std::size_t mask = slots_.size() - 1;
      const auto number = [&](std::size_t i) { return std::max(slots_[hash[i] & mask].number, 0); };
      for (std::size_t i = 0; i < count; ++i) __builtin_prefetch(&slots_[hash[i] & mask]);
      for (std::size_t i = 0; i < count; ++i) __builtin_prefetch(&begin_[number(i)]);
      for (std::size_t i = 0; i < count; ++i) __builtin_prefetch(bytes_.data() + begin_[number(i)]);
    }
    for (std::size_t i = 0; i < count; ++i) numbers[i] = intern(ids[i], hash[i]);
    ids = ids.subspan(count);
    numbers = numbers.subspan(count);
  }
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

void RawRatings::add(RowColumns& rows) {
  std::size_t kept = 0;
  for (std::size_t row = 0; row < rows.time.size(); ++row) {
    if (!years.holds(rows.time[row])) continue;
    rows.user[kept] = rows.user[row];
    rows.item[kept] = rows.item[row];
    rows.rating[kept] = rows.rating[row];
    rows.time[kept++] = rows.time[row];
  }
  outside_years += static_cast<std::int64_t>(rows.time.size() - kept);
  rows.user.resize(kept), rows.item.resize(kept), rows.rating.resize(kept), rows.time.resize(kept);

  const std::size_t before = user.size();
  user.resize(before + kept);
  item.resize(before + kept);
  users.intern(rows.user, std::span(user).subspan(before));
  items.intern(rows.item, std::span(item).subspan(before));
  rating.insert(rating.end(), rows.rating.begin(), rows.rating.end());
  time.insert(time.end(), rows.time.begin(), rows.time.end());
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
