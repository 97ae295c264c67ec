// AUC, UAUC and their bootstrap standard error.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

namespace graphlora {

/// Area under the ROC curve, ties counted one half; empty unless both labels occur. O(n log n),
/// exact counts.
std::optional<double> auc(std::span<const float> score, std::span<const std::uint8_t> label);

struct RankingQuality {
  std::int64_t rows = 0;
  std::optional<double> auc, auc_stderr;
  std::optional<double> uauc;           ///< unweighted mean over users with both labels
  std::optional<double> uauc_weighted;  ///< weighted by the user's positives
  std::int64_t uauc_users = 0;
  nlohmann::ordered_json to_json() const;  ///< undefined metrics are null
};
/// `user`: one id per row. `bootstrap`: resamples for the standard error, 0: none; seeded.
RankingQuality ranking_quality(std::span<const float> score, std::span<const std::uint8_t> label,
                               std::span<const std::int64_t> user, int bootstrap = 200,
                               std::uint64_t seed = 1);

}  // namespace graphlora
