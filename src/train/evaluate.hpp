// Scores of dataset rows by the whole model, each row exactly once over all ranks, and their
// quality.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "train/metrics.hpp"
#include "train/recommender.hpp"

namespace graphlora {

/// Prompts by number, which are built when they are needed on the rank that needs them.
struct PromptList {
  std::int64_t size = 0;
  std::function<std::int64_t(std::int64_t)> length;
  std::function<Prompt(std::int64_t)> build;
};

/// Scores in fp32 of a list's prompts in their order, on every rank; no dropout. Prompts with a
/// common beginning should stand together. The model's anchors must be ready
/// (AnchorStage::begin_inference). `on_progress` (may be empty): called with the prompts done so
/// far. The other arguments: as for score_rows. Collective.
std::vector<float> score_prompts(Recommender& model, const PromptList& prompts,
                                 std::int64_t micro_batch,
                                 const std::function<void(std::int64_t)>& on_progress,
                                 bool stops_on_signal = false);

/// Scores in fp32 of `rows` in their order, on every rank. Graph: all training positives; template
/// 0; no dropout. `micro_batch`: tokens a pack holds at most. With `stops_on_signal` nothing is
/// returned if a signal of Job::catch_signals() reached any rank meanwhile. Collective.
std::vector<float> score_rows(Recommender& model, std::span<const std::int64_t> rows,
                              std::int64_t micro_batch, const std::string& progress_label,
                              bool stops_on_signal = false);

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
