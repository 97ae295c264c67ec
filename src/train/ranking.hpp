// Recall@K, NDCG@K and MRR: where in a ranking of the catalogue the items stand that users liked.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "train/recommend.hpp"

namespace graphlora {

/// Means over users with at least one liked item.
class ListQuality {
 public:
  /// `k`: K of Recall@K and NDCG@K.
  explicit ListQuality(std::int64_t k) : k_(k) {}
  /// One user: places (0 for the best item, each once) of those of his `liked` ≥ 1 items that his
  /// ranking holds; what it does not hold counts as never found.
  void add(std::span<const std::int64_t> places, std::int64_t liked);
  std::int64_t users() const { return users_; }
  /// Mean of (liked items among the first K)/(liked items). Empty without users, as are the others.
  std::optional<double> recall() const { return mean(recall_); }
  /// Mean of DCG/ideal DCG of the first K, gain 1 for a liked item, discount 1/log2(1 + rank).
  std::optional<double> ndcg() const { return mean(ndcg_); }
  /// Mean of 1/(rank of the first liked item) over the whole ranking, 0 where it holds none.
  std::optional<double> mrr() const { return mean(mrr_); }
  /// {"users","recall","ndcg","mrr"}; undefined ones are null.
  nlohmann::ordered_json to_json() const;

 private:
  std::optional<double> mean(double sum) const {
    return users_ > 0 ? std::optional(sum / static_cast<double>(users_)) : std::nullopt;
  }
  std::int64_t k_, users_ = 0;
  double recall_ = 0, ndcg_ = 0, mrr_ = 0;
};

struct RankingConfig {
  Split split = Split::test;    ///< valid or test
  std::int64_t k = 10;          ///< 1…V
  std::int64_t candidates = 0;  ///< ranked by the LLM, or by E·E alone; 0: the whole catalogue
  std::int64_t users = 0;       ///< a fixed sample of so many users; 0: all
  std::uint64_t sample_seed = 0;
  std::int64_t micro_batch = 4096;
};

struct RankingEvaluation {
  RankingConfig config;
  bool by_llm = false;
  std::int64_t items = 0;                ///< of the catalogue
  ListQuality all, warm, cold;           ///< warm: users with training rows
  std::optional<ListQuality> by_e = {};  ///< of the LLM's candidates, in the order of E·E
  std::optional<double> found = {};      ///< mean share of the liked items that are candidates
  double seconds = 0;
  /// {"protocol","scorer",…}: docs/recommend.md.
  nlohmann::ordered_json to_json() const;
};

/// Throws ConfigError for what is beyond the catalogue. Local.
void check_ranking(const RankingConfig& config, const Dataset& dataset);

/// Ranks for every user with a liked item in the split the items that he has not met in an earlier
/// split: all by E·E, or the candidates of E·E by the LLM (`model` not null). His history is what
/// he liked before his first row of the split. Users are counted in their order, whatever ranks
/// there are. Collective; errors are agreed.
RankingEvaluation evaluate_ranking(Job& job, const Workspace& workspace,
                                   const CandidateSearch& search, Recommender* model,
                                   const RankingConfig& config);

}  // namespace graphlora
