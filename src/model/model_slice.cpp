#include "model/model_slice.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"

namespace graphlora {
namespace {

/// Columns come in multiples of this where there are enough of them: matrix kernels like it.
constexpr std::int64_t kColumnUnit = 32;

/// First of the `count` groups that rank `rank` of `size` holds.
std::int64_t first_group_of(std::int64_t count, int size, int rank) {
  return count / size * rank + std::min<std::int64_t>(rank, count % size);
}

/// First MLP column of a rank: ranks before it have, with their groups, their part of the work.
std::int64_t first_column_of(const LlamaConfig& c, int size, int rank) {
  if (rank == 0) return 0;
  if (rank == size) return c.intermediate_size;
  // Multiplications per token of one group (its q and o heads, its k and v) and of one column
  // (gate, up, down), both divided by the hidden size.
  const double group = 2.0 * static_cast<double>((c.heads / c.kv_heads + 1) * c.head_dim);
  constexpr double kColumn = 3;
  const double all =
      group * static_cast<double>(c.kv_heads) + kColumn * static_cast<double>(c.intermediate_size);
  const double attention = group * static_cast<double>(first_group_of(c.kv_heads, size, rank));
  const std::int64_t unit = c.intermediate_size >= 4 * kColumnUnit * size ? kColumnUnit : 1;
  const auto units = static_cast<std::int64_t>(
      std::llround((all * rank / size - attention) / kColumn / static_cast<double>(unit)));
  // At least one unit for this rank's predecessors and for those that follow.
  return std::clamp(units * unit, rank * unit, c.intermediate_size - (size - rank) * unit);
}

}  // namespace

ModelSlice ModelSlice::of(const LlamaConfig& config, int size, int rank) {
  if (size > config.kv_heads) {
    throw ConfigError(
        "--tensor-parallel {}: the model has {} key/value groups, and each rank needs one", size,
        config.kv_heads);
  }
  if (size > config.intermediate_size) {
    throw ConfigError("--tensor-parallel {}: the model has {} MLP columns, and each rank needs one",
                      size, config.intermediate_size);
  }
  const std::int64_t per_group = config.heads / config.kv_heads;
  ModelSlice s;
  s.rank = rank;
  s.size = size;
  s.first_group = first_group_of(config.kv_heads, size, rank);
  s.groups = first_group_of(config.kv_heads, size, rank + 1) - s.first_group;
  s.first_head = s.first_group * per_group;
  s.heads = s.groups * per_group;
  s.first_column = first_column_of(config, size, rank);
  s.columns = first_column_of(config, size, rank + 1) - s.first_column;
  return s;
}

}  // namespace graphlora
