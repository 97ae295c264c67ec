#include "graph/generate.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>

#include "core/error.hpp"
#include "core/progress.hpp"
#include "core/rng.hpp"
#include "graph/title_words.hpp"

namespace graphlora {
namespace {

constexpr double kInside = 0.7;
constexpr double kMedianActivity = 12;
constexpr double kMatch = 2.6, kQuality = 1.0, kMood = 0.5;
constexpr std::int64_t kFirstTime = 1'577'836'800;   // 2020-01-01
constexpr double kSeconds = 5 * 365.25 * 24 * 3600;  // five years
constexpr int kTries = 32;
constexpr std::int64_t kOwnWords = 8;  // of each community

std::uint64_t seed_of(const GenerateConfig& config, const char* what) {
  return hash_name(static_cast<std::uint64_t>(config.seed), what);
}

/// Communities of `count` nodes: a random division into parts of equal size.
std::vector<std::int32_t> divide(std::int64_t count, std::int64_t communities, std::uint64_t seed) {
  const KeyedPermutation place(count, seed);
  std::vector<std::int32_t> community(count);
  at::parallel_for(0, count, 4096, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t n = from; n < to; ++n)
      community[n] =
          static_cast<std::int32_t>(static_cast<std::int64_t>(place(n)) * communities / count);
  });
  return community;
}

std::vector<float> normal_values(std::int64_t count, double deviation, std::uint64_t seed) {
  std::vector<float> values(count);
  at::parallel_for(0, count, 4096, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t n = from; n < to; ++n)
      values[n] = static_cast<float>(
          deviation * SplitMix64(splitmix64(seed + static_cast<std::uint64_t>(n))).normal());
  });
  return values;
}

/// Draws from items by weight 1/(item+1) in constant time (Walker's alias method, built as by Vose
/// 1991).
class PopularItems {
 public:
  explicit PopularItems(std::vector<std::int32_t> items)
      : items_(std::move(items)), threshold_(items_.size()), other_(items_.size()) {
    double total = 0;
    for (const std::int32_t item : items_) total += 1.0 / (item + 1.0);
    const double scale = static_cast<double>(items_.size()) / total;
    std::vector<double> share(items_.size());
    std::vector<std::uint32_t> small, large;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      share[i] = scale / (items_[i] + 1.0);
      (share[i] < 1 ? small : large).push_back(static_cast<std::uint32_t>(i));
    }
    while (!small.empty() && !large.empty()) {
      const std::uint32_t low = small.back(), high = large.back();
      small.pop_back();
      threshold_[low] = static_cast<std::uint32_t>(share[low] * 0x1.0p32);
      other_[low] = high;
      share[high] -= 1 - share[low];
      if (share[high] < 1) {
        large.pop_back();
        small.push_back(high);
      }
    }
    for (const auto& rest : {small, large}) {
      for (const std::uint32_t i : rest) {
        threshold_[i] = std::numeric_limits<std::uint32_t>::max();
        other_[i] = i;
      }
    }
  }

  std::size_t size() const { return items_.size(); }
  std::int32_t draw(std::uint64_t random) const {
    const std::size_t i = uniform_index(random);
    return items_[static_cast<std::uint32_t>(random) < threshold_[i] ? i : other_[i]];
  }
  /// The first item from a random place on (round the end) that is not `taken`; -1: all are.
  template <class Taken>
  std::int32_t first_free(std::uint64_t random, Taken taken) const {
    const std::size_t begin = uniform_index(random);
    for (std::size_t n = 0; n < items_.size(); ++n) {
      const std::int32_t item = items_[(begin + n) % items_.size()];
      if (!taken(item)) return item;
    }
    return -1;
  }

 private:
  std::size_t uniform_index(std::uint64_t random) const {
    return static_cast<std::size_t>(((random >> 32) * items_.size()) >> 32);
  }

  std::vector<std::int32_t> items_;
  std::vector<std::uint32_t> threshold_, other_;
};

/// Probability that a random positive scores above a random negative, ties ½.
nlohmann::json auc(std::vector<std::pair<float, std::uint8_t>> rows) {
  std::sort(rows.begin(), rows.end());
  double positives = 0, below = 0, pairs = 0;  // below: negatives of lower score
  for (std::size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    double equal[2] = {0, 0};
    for (end = begin; end < rows.size() && rows[end].first == rows[begin].first; ++end)
      ++equal[rows[end].second];
    pairs += equal[1] * (below + equal[0] / 2);
    positives += equal[1];
    below += equal[0];
  }
  if (positives == 0 || below == 0) return nullptr;
  return pairs / (positives * below);
}

}  // namespace

PlantedData::PlantedData(const GenerateConfig& config) : config_(config) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const auto [users, items, interactions, communities, seed] = config;
  if (users < 1 || items < 1 || communities < 1 || users > kMost || items > kMost)
    throw ConfigError("--users {}, --items {}, --communities {}: must be from 1 to 2^31-1", users,
                      items, communities);
  if (communities > items)
    throw ConfigError("--communities {}: must not exceed --items {}", communities, items);
  if (interactions < users || interactions > kMost || interactions / users > items ||
      (interactions / users == items && interactions % users > 0))
    throw ConfigError(
        "--interactions {}: must be from one a user ({}) to one a pair of user and item, and below "
        "2^31",
        interactions, users);
  user_community_ = divide(users, communities, seed_of(config, "users"));
  item_community_ = divide(items, communities, seed_of(config, "items"));
  mood_ = normal_values(users, kMood, seed_of(config, "mood"));
  quality_ = normal_values(items, kQuality, seed_of(config, "quality"));
  draw_activity();
  draw_titles();
}

float PlantedData::logit(std::int32_t user, std::int32_t item) const {
  const bool same = user_community_[user] == item_community_[item];
  return static_cast<float>(kMatch * ((same ? 1.0 : 0.0) - kInside)) + quality_[item] + mood_[user];
}

void PlantedData::draw_activity() {
  const auto cap = static_cast<double>(config_.items);
  std::vector<float> weight = normal_values(config_.users, 1, seed_of(config_, "activity"));
  at::parallel_for(0, config_.users, 4096, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t u = from; u < to; ++u)
      weight[u] = static_cast<float>(kMedianActivity * std::exp(weight[u]));
  });
  const auto total = [&](double scale) {
    double sum = 0;
    for (const float w : weight) sum += std::clamp(scale * w, 1.0, cap);
    return sum;
  };
  const auto wanted = static_cast<double>(config_.interactions);
  double low = 0, high = 1;
  while (total(high) < wanted && high < 1e12) high *= 2;
  for (int step = 0; step < 50; ++step) {
    const double middle = (low + high) / 2;
    (total(middle) < wanted ? low : high) = middle;
  }

  // Rounded so that no error piles up, the rest dealt to the first users that can take it.
  std::vector<std::int64_t> count(config_.users);
  double sum = 0, rounded = 0;
  for (std::int64_t u = 0; u < config_.users; ++u) {
    sum += std::clamp(high * weight[u], 1.0, cap);
    count[u] = std::clamp<std::int64_t>(std::llround(sum - rounded), 1, config_.items);
    rounded += static_cast<double>(count[u]);
  }
  std::int64_t missing = config_.interactions - static_cast<std::int64_t>(rounded);
  while (missing != 0) {
    for (std::int64_t& n : count) {
      if (missing > 0 && n < config_.items) ++n, --missing;
      if (missing < 0 && n > 1) --n, ++missing;
    }
  }
  row_offsets_.assign(config_.users + 1, 0);
  std::partial_sum(count.begin(), count.end(), row_offsets_.begin() + 1);
}

void PlantedData::draw_titles() {
  const auto adjectives = title_adjectives(), nouns = title_nouns();
  const std::uint64_t vocabulary = seed_of(config_, "vocabulary"),
                      titles = seed_of(config_, "titles");
  std::unordered_set<std::string> known;
  known.reserve(config_.items);
  titles_.resize(config_.items);
  for (std::int64_t item = 0; item < config_.items; ++item) {
    const KeyedPermutation own(nouns.size(),
                               vocabulary + static_cast<std::uint64_t>(item_community_[item]));
    SplitMix64 random(splitmix64(titles + static_cast<std::uint64_t>(item)));
    std::string& title = titles_[item];
    // The second of a pair is never the first.
    const auto two_of = [&](std::uint64_t n) {
      const std::uint64_t first = random.below(n);
      return std::pair(first, (first + 1 + random.below(n - 1)) % n);
    };
    for (int attempt = 0; attempt < kTries; ++attempt) {
      const auto [adjective, other_adjective] = two_of(adjectives.size());
      const auto [noun, other_noun] = two_of(kOwnWords);
      title = fmt::format("{} {} {} {}", adjectives[adjective], nouns[own(noun)],
                          adjectives[other_adjective], nouns[own(other_noun)]);
      if (known.insert(title).second) break;
      if (attempt + 1 == kTries) title += fmt::format(" {}", item + 1);
    }
  }
}

RawRatings PlantedData::ratings(bool progress) const {
  std::vector<PopularItems> own;
  {
    std::vector<std::vector<std::int32_t>> members(config_.communities);
    for (std::int32_t i = 0; i < config_.items; ++i) members[item_community_[i]].push_back(i);
    for (auto& items : members) own.emplace_back(std::move(items));
  }
  std::vector<std::int32_t> everything(config_.items);
  std::iota(everything.begin(), everything.end(), 0);
  const PopularItems all(std::move(everything));

  RawRatings raw;
  raw.input = "the generated data";
  raw.user.resize(config_.interactions);
  raw.item.resize(config_.interactions);
  raw.rating.resize(config_.interactions);
  raw.time.resize(config_.interactions);
  const std::uint64_t seed = seed_of(config_, "interactions");

  /// `last_user` of an item: the last user of this thread that took it.
  const auto fill_user = [&](std::int32_t user, std::vector<std::int32_t>& last_user) {
    SplitMix64 random(splitmix64(seed + static_cast<std::uint64_t>(user)));
    const PopularItems& near = own[user_community_[user]];
    const auto taken = [&](std::int32_t item) { return last_user[item] == user; };
    const auto draw = [&](const PopularItems& items) {
      for (int attempt = 0; attempt < kTries; ++attempt) {
        const std::int32_t item = items.draw(random());
        if (!taken(item)) return item;
      }
      return items.first_free(random(), taken);
    };
    std::size_t taken_near = 0;
    const auto draw_near = [&]() -> std::int32_t {
      if (taken_near < near.size()) return draw(near);
      // What would be drawn in vain, so that later draws are what they would be after it.
      for (int attempt = 0; attempt <= kTries; ++attempt) random();
      return -1;
    };
    const double x = random.uniform(), joined = kSeconds * x * x;
    for (std::int64_t row = row_offsets_[user]; row < row_offsets_[user + 1]; ++row) {
      std::int32_t item = random.uniform() < kInside ? draw_near() : -1;
      if (item < 0) item = draw(all);
      last_user[item] = user;
      taken_near += item_community_[item] == user_community_[user];
      const double like = 1 / (1 + std::exp(-static_cast<double>(logit(user, item))));
      const bool liked = random.uniform() < like;
      // The better the match, the higher the rating within liked and not liked ones, too.
      const double level = random.uniform();
      raw.user[row] = user;
      raw.item[row] = item;
      raw.rating[row] = liked                  ? (level < like ? 5.0F : 4.0F)
                        : level < like         ? 3.0F
                        : 2 * level < 1 + like ? 2.0F
                                               : 1.0F;
      raw.time[row] =
          kFirstTime + static_cast<std::int64_t>(joined + (kSeconds - joined) * random.uniform());
    }
  };

  constexpr std::int64_t kBlock = 1 << 16;
  Progress bar("generating", config_.interactions, "rows", progress);
  for (std::int64_t begin = 0; begin < config_.users; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, config_.users);
    at::parallel_for(begin, end, 1024, [&](std::int64_t from, std::int64_t to) {
      std::vector<std::int32_t> last_user(config_.items, -1);
      for (std::int64_t user = from; user < to; ++user)
        fill_user(static_cast<std::int32_t>(user), last_user);
    });
    bar.update(row_offsets_[end]);
  }
  for (std::int64_t u = 1; u <= config_.users; ++u) raw.users.intern(fmt::format("u{}", u));
  for (std::int64_t i = 1; i <= config_.items; ++i) raw.items.intern(fmt::format("i{}", i));
  raw.titles = titles_;
  return raw;
}

nlohmann::json PlantedData::describe(const PreparedRows& rows) const {
  std::vector<std::pair<float, std::uint8_t>> test;
  for (std::size_t row = 0; row < rows.user.size(); ++row)
    if (rows.split[row] == Split::test)
      test.emplace_back(logit(rows.user[row], rows.item[row]), rows.label[row]);
  nlohmann::json generated = describe(rows.user, rows.item);
  generated["best_auc"] = auc(std::move(test));
  return {{"generated", generated}};
}

nlohmann::json PlantedData::describe(std::span<const std::int32_t> user,
                                     std::span<const std::int32_t> item) const {
  std::int64_t inside = 0;
  for (std::size_t row = 0; row < user.size(); ++row)
    inside += user_community_[user[row]] == item_community_[item[row]];
  return {{"users", config_.users},
          {"items", config_.items},
          {"interactions", config_.interactions},
          {"communities", config_.communities},
          {"seed", config_.seed},
          {"inside", static_cast<double>(inside) / static_cast<double>(user.size())}};
}

}  // namespace graphlora
