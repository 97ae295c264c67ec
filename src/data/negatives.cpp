#include "data/negatives.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/rng.hpp"

namespace graphlora {
namespace {

/// Weights of items, drawn from in logarithmic time (Fenwick tree of partial sums).
class WeightedItems {
 public:
  explicit WeightedItems(std::int32_t items)
      : weight_(items, 0.0), tree_(static_cast<std::size_t>(items) + 1, 0.0) {}

  double weight(std::int32_t item) const { return weight_[item]; }
  double total() const { return total_; }

  void set(std::int32_t item, double weight) {
    const double delta = weight - weight_[item];
    weight_[item] = weight;
    total_ += delta;
    for (std::size_t i = static_cast<std::size_t>(item) + 1; i < tree_.size(); i += i & (~i + 1))
      tree_[i] += delta;
  }

  /// The item whose share of [0, total) holds `point`.
  std::int32_t at(double point) const {
    std::size_t position = 0;
    for (std::size_t step = std::bit_floor(tree_.size() - 1); step > 0; step >>= 1) {
      if (position + step < tree_.size() && tree_[position + step] <= point) {
        position += step;
        point -= tree_[position];
      }
    }
    // Rounding may run off the end.
    return static_cast<std::int32_t>(std::min(position, weight_.size() - 1));
  }

 private:
  std::vector<double> weight_, tree_;
  double total_ = 0;
};

/// Items each user has: per user a hash table of its own (open addressing), all in one array, so
/// that a user's draws touch few lines of memory.
class TakenItems {
 public:
  /// `count` items a user at most.
  explicit TakenItems(const std::vector<std::int64_t>& count) {
    begin_.reserve(count.size() + 1);
    for (const std::int64_t n : count)
      begin_.push_back(begin_.back() +
                       static_cast<std::int64_t>(std::bit_ceil(
                           static_cast<std::uint64_t>(n) + static_cast<std::uint64_t>(n) / 2 + 1)));
    slots_.assign(begin_.back(), kFree);
  }

  bool contains(std::int32_t user, std::int32_t item) const {
    return slots_[slot(user, item)] == item;
  }
  void insert(std::int32_t user, std::int32_t item) { slots_[slot(user, item)] = item; }

 private:
  static constexpr std::int32_t kFree = -1;

  /// Where the item is, or would be.
  std::int64_t slot(std::int32_t user, std::int32_t item) const {
    const std::int64_t begin = begin_[user], mask = begin_[user + 1] - begin - 1;
    const auto hash = static_cast<std::uint32_t>(item) * 0x9E3779B1U;
    std::int64_t at = (hash >> 7) & mask;
    while (slots_[begin + at] != kFree && slots_[begin + at] != item) at = (at + 1) & mask;
    return begin + at;
  }

  std::vector<std::int64_t> begin_{0};
  std::vector<std::int32_t> slots_;
};

/// The users of each item.
class ItemUsers {
 public:
  ItemUsers(std::span<const std::int32_t> user, std::span<const std::int32_t> item,
            std::int32_t items)
      : begin_(static_cast<std::size_t>(items) + 1, 0), user_(user.size()) {
    for (const std::int32_t i : item) ++begin_[i + 1];
    std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
    std::vector<std::int64_t> next(begin_.begin(), begin_.end() - 1);
    for (std::size_t row = 0; row < user.size(); ++row) user_[next[item[row]]++] = user[row];
  }

  std::span<const std::int32_t> operator[](std::int32_t item) const {
    return std::span(user_).subspan(begin_[item], begin_[item + 1] - begin_[item]);
  }

 private:
  std::vector<std::int64_t> begin_;
  std::vector<std::int32_t> user_;
};

}  // namespace

std::vector<Negative> draw_negatives(std::span<const std::int32_t> user,
                                     std::span<const std::int32_t> item,
                                     std::span<const std::int64_t> time, std::int32_t users,
                                     std::int32_t items, std::int64_t k, std::uint64_t seed) {
  constexpr int kTries = 32;
  std::vector<std::int64_t> count(users, 0);
  for (const std::int32_t u : user) count[u] += k + 1;
  for (std::int64_t& n : count) n = std::min<std::int64_t>(n, items);
  TakenItems taken(count);
  for (std::size_t row = 0; row < user.size(); ++row) taken.insert(user[row], item[row]);
  const ItemUsers takers(user, item, items);
  std::vector<std::int32_t> existing_taken(users, 0);  // of the items that exist so far
  std::int32_t existing = 0;
  WeightedItems popular(items);
  std::vector<std::int64_t> clicks(items, 0);
  SplitMix64 random(hash_name(seed, "negatives"));
  std::vector<Negative> out;
  out.reserve(user.size() * k);
  std::vector<double> share;

  const auto draw = [&](std::int32_t u) -> std::int32_t {
    if (existing_taken[u] == existing) {
      // The draws that would be in vain, so that those of other users don't depend on this.
      for (int attempt = 0; attempt < kTries; ++attempt) random.uniform();
      return -1;
    }
    for (int attempt = 0; attempt < kTries; ++attempt) {
      const std::int32_t i = popular.at(random.uniform() * popular.total());
      if (popular.weight(i) > 0 && !taken.contains(u, i)) return i;
    }
    // The user has nearly everything of weight: draw among what is left, exactly.
    share.assign(items, 0.0);
    double total = 0;
    for (std::int32_t i = 0; i < items; ++i) {
      if (!taken.contains(u, i)) total += popular.weight(i);
      share[i] = total;
    }
    if (total <= 0) return -1;
    const double point = random.uniform() * total;
    const auto found = std::upper_bound(share.begin(), share.end(), point);
    return static_cast<std::int32_t>(found - share.begin());
  };

  for (std::size_t begin = 0, end = 0; begin < user.size(); begin = end) {
    for (end = begin; end < user.size() && time[end] == time[begin]; ++end) {
      const std::int32_t i = item[end];
      if (++clicks[i] == 1) {
        ++existing;
        for (const std::int32_t u : takers[i]) ++existing_taken[u];
      }
      popular.set(i, std::pow(static_cast<double>(clicks[i]), 0.75));
    }
    for (std::size_t row = begin; row < end; ++row) {
      for (std::int64_t n = 0; n < k; ++n) {
        const std::int32_t drawn = draw(user[row]);
        if (drawn < 0) break;
        taken.insert(user[row], drawn);
        ++existing_taken[user[row]];
        out.push_back({static_cast<std::uint32_t>(row), drawn});
      }
    }
  }
  return out;
}

}  // namespace graphlora
