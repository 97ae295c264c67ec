// Which rows train, validate and test.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.hpp"

namespace graphlora {

/// "Not given": times are never negative.
inline constexpr std::int64_t kNoTime = -1;

struct SplitConfig {
  std::string rule = "time";       ///< time: global boundaries; user-time: each user's last rows
  double valid = 0.1, test = 0.1;  ///< fractions of the rows (time), of each user's (user-time)
  std::int64_t valid_from = kNoTime,
               test_from = kNoTime;  ///< explicit boundaries instead of fractions, only for `time`
};

/// Throws ConfigError for an unknown rule, shares outside [0, 1) or that sum to 1, and boundaries
/// that are incomplete, in the wrong order or not of `time`.
void check(const SplitConfig& config);

/// Splits n rows, ascending in time: test from n-⌊test·n+0.5⌋, valid from n-⌊(valid+test)·n+0.5⌋.
/// A boundary between rows of equal time moves down to the first of them: times stay together, in
/// the later split.
std::vector<Split> split_sorted(std::span<const std::int64_t> time, double valid, double test);

/// The same with explicit times: rows of time >= test_from test, others >= valid_from validate.
std::vector<Split> split_at(std::span<const std::int64_t> time, std::int64_t valid_from,
                            std::int64_t test_from);

/// Split of every row by the rule; rows ascending in time. Throws as `check`.
std::vector<Split> split_rows(std::span<const std::int32_t> user,
                              std::span<const std::int64_t> time, std::int64_t users,
                              const SplitConfig& config);

}  // namespace graphlora
