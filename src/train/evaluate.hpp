// Scores of dataset rows by the whole model, each row exactly once over all ranks, and their
// quality.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "train/metrics.hpp"
#include "train/recommender.hpp"

namespace graphlora {

/// Scores in fp32 of `rows` in their order, on every rank. Graph: all training positives; template
/// 0; no dropout. `micro_batch`: tokens a pack holds at most. With `stops_on_signal` nothing is
/// returned if a signal of Job::catch_signals() reached any rank meanwhile. With `shared_prefix`
/// rows of one user with the same history are scored together, so that their common beginning is
/// computed once. Collective.
std::vector<float> score_rows(Recommender& model, std::span<const std::int64_t> rows,
                              std::int64_t micro_batch, const std::string& progress_label,
                              bool stops_on_signal = false, bool shared_prefix = true);

struct Evaluation {
  RankingQuality all, warm, cold;
  /// {"split","rows","auc","auc_stderr","uauc","uauc_weighted","uauc_users","warm":{…},"cold":{…},"examples_per_s"}
  nlohmann::ordered_json to_json(const std::string& split, double seconds) const;
};
/// Quality of scores over `rows`. Local.
Evaluation quality_of(const Dataset& dataset, std::span<const std::int64_t> rows,
                      std::span<const float> scores);

/// Writes CSV `user,item,label,score` with source ids; scores read back to the same fp32. Atomic.
/// Throws DataError.
void write_predictions(const std::filesystem::path& path, const Dataset& dataset,
                       std::span<const std::int64_t> rows, std::span<const float> scores);

}  // namespace graphlora
