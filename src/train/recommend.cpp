#include "train/recommend.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/error.hpp"
#include "train/evaluate.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;

// Candidates of all ranks that one batch of recipients gathers, and recipients of a batch.
constexpr std::int64_t kMostGathered = 1 << 21, kMostRecipients = 256;
// With an LLM: recipients for each replica, which leaves every replica enough to share.
constexpr std::int64_t kRecipientsPerReplica = 32;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

RecommendationEngine::RecommendationEngine(Communicator& world, const Dataset& dataset,
                                           const CandidateSearch& search, Recommender* model,
                                           const RecommendConfig& config)
    : search_(search), model_(model), config_(config) {
  config_.candidates = std::min(config_.candidates, dataset.items());
  batch_ = std::clamp<std::int64_t>(
      kMostGathered / (config_.candidates * world.size()), 1,
      model == nullptr ? kMostRecipients
                       : kRecipientsPerReplica * model->workspace().grid->replicas());
  if (model_ != nullptr) model_->anchors().begin_inference();
}

std::vector<std::vector<RankedItem>> RecommendationEngine::rank(
    std::span<const Recipient> recipients, std::span<const std::span<const std::int32_t>> excluded,
    const std::function<void(std::int64_t)>& on_progress) {
  auto start = Clock::now();
  const auto lists = search_.best(search_.queries(recipients), excluded, config_.candidates);
  std::vector<std::vector<RankedItem>> ranked(lists.size());
  std::vector<Question> questions;
  std::vector<std::size_t> asked_for;  // by question: which recipient
  for (std::size_t q = 0; q < lists.size(); ++q) {
    for (const Candidate& candidate : lists[q]) {
      ranked[q].push_back({candidate, static_cast<std::int64_t>(ranked[q].size()) + 1,
                           std::numeric_limits<float>::quiet_NaN()});
      questions.push_back({recipients[q].user_node, candidate.item, recipients[q].liked});
      asked_for.push_back(q);
    }
  }
  seconds_.retrieval += seconds_since(start);
  if (model_ == nullptr) return ranked;

  start = Clock::now();
  const PromptBuilder& prompts = model_->prompts();
  const std::vector<float> scores =
      score_prompts(*model_,
                    {.size = static_cast<std::int64_t>(questions.size()),
                     .extent = [&](std::int64_t i) { return prompts.extent(questions[i], 0); },
                     .beginning = [&](std::int64_t i) { return std::uint64_t{asked_for[i]}; },
                     .build = [&](std::int64_t i) { return prompts.build(questions[i], 0); }},
                    config_.micro_batch, on_progress);
  auto score = scores.begin();
  for (auto& list : ranked) {
    for (RankedItem& item : list) {
      item.llm_score = *score++;
      if (std::isnan(item.llm_score))
        throw DataError("the LLM's score of an item is not a number: the checkpoint has diverged");
    }
    std::sort(list.begin(), list.end(), [](const RankedItem& a, const RankedItem& b) {
      return a.llm_score != b.llm_score ? a.llm_score > b.llm_score
                                        : a.candidate.item < b.candidate.item;
    });
  }
  seconds_.reranking += seconds_since(start);
  seconds_.candidates += static_cast<std::int64_t>(questions.size());
  return ranked;
}

}  // namespace graphlora
