#include "train/seen_items.hpp"

#include <algorithm>
#include <numeric>

namespace graphlora {

SeenItems::SeenItems(const Dataset& dataset, const NodeMap& map, int rank,
                     const std::function<bool(std::int64_t)>& counts)
    : offsets_(static_cast<std::size_t>(dataset.users()) + 1) {
  const auto each = [&](const auto& visit) {
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      dataset.check_row(row);
      if (counts(row) && map.owner(dataset.item_node(row)) == rank) visit(row);
    }
  };
  each([&](std::int64_t row) { ++offsets_[dataset.user()[row] + 1]; });
  std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
  items_.resize(static_cast<std::size_t>(offsets_.back()));
  std::vector<std::int64_t> next(offsets_.begin(), offsets_.end() - 1);
  each([&](std::int64_t row) {
    items_[next[dataset.user()[row]]++] = static_cast<std::int32_t>(dataset.item()[row]);
  });
  for (std::int64_t user = 0; user < dataset.users(); ++user)
    std::sort(items_.begin() + offsets_[user], items_.begin() + offsets_[user + 1]);
}

std::span<const std::int32_t> SeenItems::of(std::int64_t user) const {
  if (offsets_.empty()) return {};
  return std::span(items_).subspan(offsets_[user], offsets_[user + 1] - offsets_[user]);
}

}  // namespace graphlora
