// Which items users have met in some splits, as far as this rank's items go.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "data/dataset.hpp"
#include "graph/shard.hpp"

namespace graphlora {

class SeenItems {
 public:
  /// Nobody has seen anything.
  SeenItems() = default;
  /// Items that `rank` owns, of the rows for which `counts(row)` is true. Two passes over the
  /// dataset's rows; 4 bytes for each such row, 8 a user. Throws DataError. Local.
  SeenItems(const Dataset& dataset, const NodeMap& map, int rank,
            const std::function<bool(std::int64_t)>& counts);

  /// Ascending item numbers (0…V-1).
  std::span<const std::int32_t> of(std::int64_t user) const;

 private:
  std::vector<std::int64_t> offsets_;
  std::vector<std::int32_t> items_;
};

}  // namespace graphlora
