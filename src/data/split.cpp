#include "data/split.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "data/group_rows.hpp"

namespace graphlora {

void check(const SplitConfig& config) {
  if (config.rule != "time" && config.rule != "user-time")
    throw ConfigError("--split: must be time or user-time, got '{}'", config.rule);
  const bool explicit_times = config.valid_from != kNoTime || config.test_from != kNoTime;
  if (explicit_times && config.rule != "time")
    throw ConfigError("--split.valid-from and --split.test-from need --split time");
  if (explicit_times && (config.valid_from == kNoTime || config.test_from == kNoTime))
    throw ConfigError("--split.valid-from and --split.test-from must be given together");
  if (explicit_times && config.valid_from > config.test_from)
    throw ConfigError("--split.valid-from {} is after --split.test-from {}", config.valid_from,
                      config.test_from);
  if (!(config.valid >= 0 && config.test >= 0 && config.valid + config.test < 1))
    throw ConfigError(
        "--split.valid {} and --split.test {}: must not be negative, and their sum must be below 1",
        config.valid, config.test);
}

std::vector<Split> split_sorted(std::span<const std::int64_t> time, double valid, double test) {
  const auto n = static_cast<std::int64_t>(time.size());
  const auto boundary = [&](double fraction) {
    std::int64_t row = n - static_cast<std::int64_t>(std::floor(fraction * n + 0.5));
    while (row > 0 && row < n && time[row - 1] == time[row]) --row;
    return row;
  };
  const std::int64_t test_begin = boundary(test), valid_begin = boundary(valid + test);
  std::vector<Split> split(n, Split::train);
  std::fill(split.begin() + valid_begin, split.end(), Split::valid);
  std::fill(split.begin() + test_begin, split.end(), Split::test);
  return split;
}

std::vector<Split> split_at(std::span<const std::int64_t> time, std::int64_t valid_from,
                            std::int64_t test_from) {
  std::vector<Split> split(time.size());
  std::transform(time.begin(), time.end(), split.begin(), [&](std::int64_t t) {
    return t >= test_from ? Split::test : t >= valid_from ? Split::valid : Split::train;
  });
  return split;
}

std::vector<Split> split_rows(std::span<const std::int32_t> user,
                              std::span<const std::int64_t> time, std::int64_t users,
                              const SplitConfig& config) {
  check(config);
  if (config.valid_from != kNoTime) return split_at(time, config.valid_from, config.test_from);
  if (config.rule == "time") return split_sorted(time, config.valid, config.test);
  const GroupedRows by_user = group_rows(user, users);
  std::vector<Split> split(time.size());
  std::vector<std::int64_t> own_time;
  for (std::int64_t u = 0; u < users; ++u) {
    const auto rows = by_user[u];
    own_time.clear();
    for (const std::uint32_t row : rows) own_time.push_back(time[row]);
    const std::vector<Split> own = split_sorted(own_time, config.valid, config.test);
    for (std::size_t i = 0; i < rows.size(); ++i) split[rows[i]] = own[i];
  }
  return split;
}

}  // namespace graphlora
