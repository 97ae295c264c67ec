// Items for users: retrieved by E·E, ranked by the LLM.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "train/candidates.hpp"
#include "train/recommender.hpp"

namespace graphlora {

struct RankedItem {
  Candidate candidate;
  std::int64_t retrieval_rank = 0;  ///< by E·E, from 1
  float llm_score = 0;              ///< not a number without an LLM
};

/// What ranking took.
struct RecommendSeconds {
  double retrieval = 0, reranking = 0;
  std::int64_t candidates = 0;  ///< that the LLM has scored
};

struct RecommendConfig {
  std::int64_t candidates = 50;
  std::int64_t micro_batch = 4096;  ///< tokens that go through the LLM at a time
};

class RecommendationEngine {
 public:
  /// `model`: null: items stay in the order of E·E. With one, the GNN runs over the whole graph
  /// here. Keeps references. Collective.
  RecommendationEngine(Communicator& world, const Dataset& dataset, const CandidateSearch& search,
                       Recommender* model, const RecommendConfig& config);

  /// Candidates of each recipient, best first: by the LLM's score of the prompt that evaluation
  /// builds (the recipient's last liked titles as history), of equal ones the lesser item first.
  /// `excluded`: as for CandidateSearch::best. `on_progress` (may be empty): called with the
  /// candidates scored so far. The same lists on every rank. Collective.
  std::vector<std::vector<RankedItem>> rank(std::span<const Recipient> recipients,
                                            std::span<const std::span<const std::int32_t>> excluded,
                                            const std::function<void(std::int64_t)>& on_progress);

  /// How many recipients to give to rank() at a time: bounds what it keeps in memory.
  std::int64_t batch() const { return batch_; }
  const RecommendSeconds& seconds() const { return seconds_; }

 private:
  const CandidateSearch& search_;
  Recommender* model_;
  RecommendConfig config_;
  std::int64_t batch_;
  RecommendSeconds seconds_;
};

}  // namespace graphlora
