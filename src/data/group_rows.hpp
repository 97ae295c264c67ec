// Rows listed by the user (or item) they belong to.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace graphlora {

struct GroupedRows {
  std::vector<std::int64_t> offsets;
  std::vector<std::uint32_t> rows;
  /// Rows of one group, ascending.
  std::span<const std::uint32_t> operator[](std::int64_t group) const {
    return std::span(rows).subspan(offsets[group], offsets[group + 1] - offsets[group]);
  }
};

/// Counting sort of the rows (fewer than 2^32) by key; keys in [0, groups).
inline GroupedRows group_rows(std::span<const std::int32_t> key, std::int64_t groups) {
  GroupedRows out;
  out.offsets.assign(groups + 1, 0);
  for (const std::int32_t k : key) ++out.offsets[k + 1];
  for (std::int64_t g = 0; g < groups; ++g) out.offsets[g + 1] += out.offsets[g];
  std::vector<std::int64_t> next(out.offsets.begin(), out.offsets.end() - 1);
  out.rows.resize(key.size());
  for (std::size_t row = 0; row < key.size(); ++row)
    out.rows[next[key[row]]++] = static_cast<std::uint32_t>(row);
  return out;
}

}  // namespace graphlora
