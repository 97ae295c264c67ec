// Planted data of any size: users and items in communities, popularity by a power law, ratings with
// a known signal, titles of real words. Everything is a function of the configuration: the same
// values at any number of threads.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/dataset_writer.hpp"
#include "data/raw_ratings.hpp"

namespace graphlora {

struct GenerateConfig {
  std::int64_t users = 0, items = 0, interactions = 0, communities = 1;
  std::int64_t seed = 1;
};

/// The model, with U users and V items, K interactions, C communities:
/// - every user and item belongs to one community, all of about equal size; item i is the (i+1)-th
///   most popular, with weight 1/(i+1) (Zipf);
/// - a user has max(1, c·w) interactions, w log-normal with median 12 and σ = 1, c such that there
///   are K in all; its items are distinct, each drawn with probability 0.7 from its own community
///   (as long as that has items left) and else from all items, by weight (uniformly once the
///   popular ones are taken);
/// - a user joins at T·x², x uniform over the T seconds, and its interactions are spread evenly
///   over the time that is left;
/// - (user, item) is liked with probability σ(z), z = 2.6·([same community] − 0.7) + quality of the
///   item, N(0,1), + mood of the user, N(0,¼). Liked rows have the ratings 4 and 5, others 1 to 3.
class PlantedData {
 public:
  /// Throws ConfigError: a count that is not positive, fewer interactions than users, more than
  /// there are pairs, more communities than items, ids beyond 32 bits.
  explicit PlantedData(const GenerateConfig& config);

  std::int32_t user_community(std::int32_t user) const { return user_community_[user]; }
  std::int32_t item_community(std::int32_t item) const { return item_community_[item]; }
  /// z above: no score ranks (user, item) better than this one.
  float logit(std::int32_t user, std::int32_t item) const;
  /// Two adjectives and two nouns, the nouns from a vocabulary of the item's community. Titles of
  /// different items differ.
  const std::string& title(std::int32_t item) const { return titles_[item]; }

  /// All interactions, user by user; ids are u1, u2, … and i1, i2, …, numbered in that order.
  RawRatings ratings(bool progress = true) const;

  /// {"generated": {…}} for dataset.json: the configuration, the share of rows within communities,
  /// and best_auc: the AUC of `logit` over the test rows (null where it is undefined).
  nlohmann::json describe(const PreparedRows& rows) const;
  /// The same of any rows, without best_auc and not as "generated".
  nlohmann::json describe(std::span<const std::int32_t> user,
                          std::span<const std::int32_t> item) const;

 private:
  void draw_activity();
  void draw_titles();

  GenerateConfig config_;
  std::vector<std::int32_t> user_community_, item_community_;
  std::vector<float> mood_, quality_;
  std::vector<std::int64_t> row_offsets_;  // (U+1) of each user's interactions
  std::vector<std::string> titles_;
};

}  // namespace graphlora
