#include "train/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace graphlora {
namespace {

void check(std::size_t scores, std::size_t labels) {
  if (scores != labels) {
    throw Error(ExitCode::internal,
                fmt::format("metrics: {} scores for {} labels", scores, labels));
  }
}

/// Rows by ascending score: sorted once, then counted under any weights.
class ScoreOrder {
 public:
  ScoreOrder(std::span<const float> score, std::span<const std::uint8_t> label)
      : score_(score), label_(label), order_(score.size()) {
    check(score.size(), label.size());
    for (std::size_t row = 0; row < score.size(); ++row) {
      if (std::isnan(score[row])) throw DataError("metrics: the score of row {} is NaN", row);
    }
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(),
              [&](std::size_t a, std::size_t b) { return score[a] < score[b]; });
  }

  /// AUC where row i occurs weight(i) times. Exact: pairs are counted as integers, ties as halves.
  template <class Weight>
  std::optional<double> auc(const Weight& weight) const {
    std::uint64_t positives = 0, negatives = 0, half_wins = 0;
    for (std::size_t begin = 0; begin < order_.size();) {
      std::uint64_t tied_positives = 0, tied_negatives = 0;
      std::size_t end = begin;
      for (; end < order_.size() && score_[order_[end]] == score_[order_[begin]]; ++end) {
        (label_[order_[end]] ? tied_positives : tied_negatives) += weight(order_[end]);
      }
      half_wins += tied_positives * (2 * negatives + tied_negatives);
      positives += tied_positives;
      negatives += tied_negatives;
      begin = end;
    }
    if (positives == 0 || negatives == 0) return std::nullopt;
    return static_cast<double>(half_wins) /
           (2.0 * static_cast<double>(positives) * static_cast<double>(negatives));
  }

 private:
  std::span<const float> score_;
  std::span<const std::uint8_t> label_;
  std::vector<std::size_t> order_;
};

/// Standard deviation of `statistic` over seeded resamples of n rows with replacement; resamples
/// for which it is undefined do not count.
template <class Statistic>
std::optional<double> bootstrap_stderr(std::size_t n, int resamples, std::uint64_t seed,
                                       const Statistic& statistic) {
  SplitMix64 random(splitmix64(seed));
  std::vector<double> values;
  std::vector<std::uint32_t> times(n);
  for (int resample = 0; resample < resamples; ++resample) {
    std::fill(times.begin(), times.end(), 0);
    for (std::size_t draw = 0; draw < n; ++draw) ++times[random.below(n)];
    const auto value = statistic([&](std::size_t row) { return std::uint64_t{times[row]}; });
    if (value) values.push_back(*value);
  }
  if (values.size() < 2) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (count - 1));
}

constexpr auto once = [](std::size_t) { return std::uint64_t{1}; };

}  // namespace

std::optional<double> auc(std::span<const float> score, std::span<const std::uint8_t> label) {
  return ScoreOrder(score, label).auc(once);
}

RankingQuality ranking_quality(std::span<const float> score, std::span<const std::uint8_t> label,
                               std::span<const std::int64_t> user, int bootstrap,
                               std::uint64_t seed) {
  check(user.size(), label.size());
  const ScoreOrder order(score, label);
  RankingQuality quality;
  quality.rows = std::ssize(score);
  quality.auc = order.auc(once);
  if (quality.auc) {
    quality.auc_stderr = bootstrap_stderr(score.size(), bootstrap, seed,
                                          [&](const auto& weight) { return order.auc(weight); });
  }

  std::vector<std::size_t> by_user(score.size());
  std::iota(by_user.begin(), by_user.end(), 0);
  std::stable_sort(by_user.begin(), by_user.end(),
                   [&](std::size_t a, std::size_t b) { return user[a] < user[b]; });
  double sum = 0, weighted_sum = 0, weights = 0;
  std::vector<float> scores;
  std::vector<std::uint8_t> labels;
  for (std::size_t begin = 0; begin < by_user.size();) {
    scores.clear();
    labels.clear();
    std::size_t end = begin;
    for (; end < by_user.size() && user[by_user[end]] == user[by_user[begin]]; ++end) {
      scores.push_back(score[by_user[end]]);
      labels.push_back(label[by_user[end]]);
    }
    begin = end;
    const std::optional<double> of_user = auc(scores, labels);
    if (!of_user) continue;
    const auto positives =
        static_cast<double>(labels.size() - std::count(labels.begin(), labels.end(), 0));
    sum += *of_user;
    weighted_sum += positives * *of_user;
    weights += positives;
    ++quality.uauc_users;
  }
  if (quality.uauc_users > 0) {
    quality.uauc = sum / static_cast<double>(quality.uauc_users);
    quality.uauc_weighted = weighted_sum / weights;
  }
  return quality;
}

nlohmann::ordered_json RankingQuality::to_json() const {
  const auto number = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  return {{"rows", rows},
          {"auc", number(auc)},
          {"auc_stderr", number(auc_stderr)},
          {"uauc", number(uauc)},
          {"uauc_weighted", number(uauc_weighted)},
          {"uauc_users", uauc_users}};
}

}  // namespace graphlora
