#include "train/ranking.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.hpp"
#include "core/progress.hpp"
#include "core/rng.hpp"
#include "train/seen_items.hpp"

namespace graphlora {
namespace {

double discount(std::int64_t place) { return 1 / std::log2(static_cast<double>(place) + 2); }

nlohmann::ordered_json number(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

/// The users that are ranked for, and what is known of each.
struct RankedUsers {
  struct User {
    std::int64_t user = 0, first_time = 0;
    std::vector<std::int64_t> liked;  // items of the split
    bool warm = false;
  };
  std::vector<User> users;  // ascending

  RankedUsers(const Dataset& dataset, const RankingConfig& config) {
    std::vector<std::int64_t> place(static_cast<std::size_t>(dataset.users()), -1);
    std::vector<bool> trained(static_cast<std::size_t>(dataset.users()));
    // Rows are sorted by time, so that the first one met is the user's first.
    std::vector<User> met;
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      dataset.check_row(row);
      const std::int64_t user = dataset.user()[row];
      if (dataset.split(row) == Split::train) trained[user] = true;
      if (dataset.split(row) != config.split) continue;
      if (place[user] < 0) {
        place[user] = static_cast<std::int64_t>(met.size());
        met.push_back({user, dataset.time()[row], {}, false});
      }
      if (dataset.label()[row] != 0) met[place[user]].liked.push_back(dataset.item()[row]);
    }
    for (User& user : met) {
      if (user.liked.empty()) continue;
      user.warm = trained[user.user];
      users.push_back(std::move(user));
    }
    if (config.users > 0 && config.users < std::ssize(users)) {
      const auto key = [&](const User& user) {
        return splitmix64(config.sample_seed * 0x9E3779B97F4A7C15 +
                          static_cast<std::uint64_t>(user.user));
      };
      std::sort(users.begin(), users.end(), [&](const User& a, const User& b) {
        return std::pair(key(a), a.user) < std::pair(key(b), b.user);
      });
      users.resize(static_cast<std::size_t>(config.users));
    }
    std::sort(users.begin(), users.end(),
              [](const User& a, const User& b) { return a.user < b.user; });
  }
};

/// Places of a user's liked items in a list, ascending.
template <class Item>
std::vector<std::int64_t> places_in(const std::vector<RankedItem>& list,
                                    const std::vector<std::int64_t>& liked, const Item& place_of) {
  std::vector<std::int64_t> places;
  for (std::size_t i = 0; i < list.size(); ++i)
    if (std::find(liked.begin(), liked.end(), list[i].candidate.item) != liked.end())
      places.push_back(place_of(i, list[i]));
  std::sort(places.begin(), places.end());
  return places;
}

}  // namespace

void ListQuality::add(std::span<const std::int64_t> places, std::int64_t liked) {
  double hits = 0, gain = 0, ideal = 0;
  std::optional<std::int64_t> first;
  for (const std::int64_t place : places) {
    first = std::min(first.value_or(place), place);
    if (place >= k_) continue;
    ++hits;
    gain += discount(place);
  }
  for (std::int64_t place = 0; place < std::min(k_, liked); ++place) ideal += discount(place);
  ++users_;
  recall_ += hits / static_cast<double>(liked);
  ndcg_ += gain / ideal;
  if (first) mrr_ += 1 / (static_cast<double>(*first) + 1);
}

nlohmann::ordered_json ListQuality::to_json() const {
  return {{"users", users_},
          {"recall", number(recall())},
          {"ndcg", number(ndcg())},
          {"mrr", number(mrr())}};
}

nlohmann::ordered_json RankingEvaluation::to_json() const {
  const bool full = config.candidates == 0;
  nlohmann::ordered_json json{{"protocol", full ? "full" : "candidates"},
                              {"scorer", by_llm ? "llm" : "embeddings"},
                              {"split", to_string(config.split)},
                              {"excluded", "the user's items of earlier splits"},
                              {"items", items},
                              {"candidates", full ? items : config.candidates},
                              {"k", config.k}};
  json.update(all.to_json());
  json["warm"] = warm.to_json();
  json["cold"] = cold.to_json();
  if (!full) json["candidate_recall"] = number(found);
  if (by_e) json["retrieval"] = by_e->to_json();
  json["seconds"] = seconds;
  return json;
}

void check_ranking(const RankingConfig& config, const Dataset& dataset) {
  if (config.k > dataset.items())
    throw ConfigError("--ranking.k {}: {} has {} items", config.k, dataset.directory().string(),
                      dataset.items());
  if (config.candidates > dataset.items())
    throw ConfigError("--ranking.candidates {}: {} has {} items", config.candidates,
                      dataset.directory().string(), dataset.items());
}

RankingEvaluation evaluate_ranking(Job& job, const Workspace& workspace,
                                   const CandidateSearch& search, Recommender* model,
                                   const RankingConfig& config) {
  const auto start = std::chrono::steady_clock::now();
  const Dataset& dataset = *workspace.dataset;
  std::optional<RankedUsers> ranked;
  SeenItems seen;
  job.agree([&] {
    ranked.emplace(dataset, config);
    seen = SeenItems(dataset, *workspace.map, workspace.grid->rank(),
                     [&](std::int64_t row) { return dataset.split(row) < config.split; });
    dataset.release_rows();
  });
  RankingEvaluation result{.config = config,
                           .by_llm = model != nullptr,
                           .items = dataset.items(),
                           .all = ListQuality(config.k),
                           .warm = ListQuality(config.k),
                           .cold = ListQuality(config.k)};
  const bool by_places = model == nullptr && config.candidates == 0;
  if (model != nullptr) result.by_e.emplace(config.k);
  const std::int64_t listed = config.candidates > 0 ? config.candidates : dataset.items();
  RecommendationEngine engine(workspace.world(), dataset, search, model,
                              {by_places ? 1 : listed, config.micro_batch});
  const auto& users = ranked->users;
  const auto total = static_cast<std::int64_t>(users.size());
  Progress progress("ranking", model == nullptr ? total : total * listed,
                    model == nullptr ? "users" : "candidates", workspace.grid->rank() == 0);
  double found = 0;
  for (std::int64_t begin = 0; begin < total; begin += engine.batch()) {
    const std::int64_t end = std::min(total, begin + engine.batch());
    std::vector<Recipient> recipients;
    std::vector<std::span<const std::int32_t>> excluded;
    std::vector<std::vector<std::int64_t>> liked;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t user = users[i].user;
      recipients.push_back(
          {user, dataset.liked_before(user, users[i].first_time, dataset.items())});
      excluded.push_back(seen.of(user));
      liked.push_back(users[i].liked);
    }
    std::vector<std::vector<std::int64_t>> places(liked.size());
    if (by_places) {
      places = search.places(search.queries(recipients), excluded, liked);
    } else {
      const auto lists = engine.rank(
          recipients, excluded, [&](std::int64_t done) { progress.update(begin * listed + done); });
      for (std::size_t i = 0; i < lists.size(); ++i) {
        places[i] = places_in(lists[i], liked[i], [](std::size_t place, const RankedItem&) {
          return static_cast<std::int64_t>(place);
        });
        found += static_cast<double>(places[i].size()) / static_cast<double>(liked[i].size());
        if (!result.by_e) continue;
        result.by_e->add(
            places_in(lists[i], liked[i],
                      [](std::size_t, const RankedItem& item) { return item.retrieval_rank - 1; }),
            std::ssize(liked[i]));
      }
    }
    for (std::size_t i = 0; i < places.size(); ++i) {
      std::sort(places[i].begin(), places[i].end());
      result.all.add(places[i], std::ssize(liked[i]));
      (users[begin + static_cast<std::int64_t>(i)].warm ? result.warm : result.cold)
          .add(places[i], std::ssize(liked[i]));
    }
    if (model == nullptr) progress.update(end);
  }
  if (!by_places && total > 0) result.found = found / static_cast<double>(total);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace graphlora
