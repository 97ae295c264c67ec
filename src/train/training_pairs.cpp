#include "train/training_pairs.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace graphlora {
namespace {

// Rows asked for before they are read, since they lie anywhere in memory.
constexpr std::int64_t kAhead = 24;
constexpr std::uint32_t kEmpty = std::numeric_limits<std::uint32_t>::max();
constexpr std::int64_t kGrain = 1 << 14;

}  // namespace

TrainingPairs::TrainingPairs(const Dataset& dataset, const NodeMap& map, int rank) {
  if (dataset.nodes() > std::numeric_limits<std::int32_t>::max()) {
    throw DataError("{}: {} users and items; pretrain handles up to 2^31 - 1",
                    dataset.directory().string(), dataset.nodes());
  }
  // Counted first, then filled, part by part, so that nothing grows.
  const std::int64_t rows = dataset.rows();
  const std::int64_t parts = std::max<std::int64_t>(1, at::get_num_threads());
  std::vector<std::int64_t> index(parts, 0), place(parts, 0);
  const auto over_parts = [&](const auto& visit) {
    at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        std::int64_t number = index[part], at = place[part];
        for (std::int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
          if (dataset.split(row) != Split::train) continue;
          if (map.owner(dataset.user_node(row)) == rank ||
              map.owner(dataset.item_node(row)) == rank) {
            visit(row, number, at++);
          }
          ++number;
        }
        index[part] = number;
        place[part] = at;
      }
    });
  };
  over_parts([](std::int64_t, std::int64_t, std::int64_t) {});
  total_ = std::reduce(index.begin(), index.end());
  if (total_ >= kEmpty) {
    throw DataError("{}: {} training rows; pretrain handles up to 2^32 - 2",
                    dataset.directory().string(), total_);
  }
  rows_.resize(std::reduce(place.begin(), place.end()));
  std::exclusive_scan(index.begin(), index.end(), index.begin(), std::int64_t{0});
  std::exclusive_scan(place.begin(), place.end(), place.begin(), std::int64_t{0});
  over_parts([&](std::int64_t row, std::int64_t number, std::int64_t at) {
    rows_[at] = {static_cast<std::uint32_t>(number), 0,
                 static_cast<std::uint32_t>(dataset.user_node(row)),
                 static_cast<std::uint32_t>(dataset.item_node(row) << 1 | dataset.label()[row])};
  });
}

std::vector<std::uint8_t> TrainingPairs::trained(const NodeMap& map, int rank,
                                                 std::int64_t owned) const {
  std::vector<std::uint8_t> trained(owned, 0);
  for (const Row& row : rows_) {
    for (const std::uint32_t node : {row.user, row.item_and_label >> 1})
      if (map.owner(node) == rank) trained[map.local(node)] = 1;
  }
  return trained;
}

void TrainingPairs::start_epoch(std::uint64_t key, std::int64_t batch_size) {
  batch_size_ = batch_size;
  const KeyedPermutation order(static_cast<std::uint64_t>(total_), key);
  const auto count = static_cast<std::int64_t>(rows_.size());
  at::parallel_for(0, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      rows_[i].position = static_cast<std::uint32_t>(order.inverse(rows_[i].index));
  });
  first_.assign((total_ + batch_size - 1) / batch_size + 1, 0);
  for (const Row& row : rows_) ++first_[row.position / batch_size + 1];
  for (std::size_t batch = 1; batch < first_.size(); ++batch) first_[batch] += first_[batch - 1];
  by_batch_.resize(rows_.size());
  std::vector<std::int64_t> next = first_;
  for (std::int64_t i = 0; i < count; ++i)
    by_batch_[next[rows_[i].position / batch_size]++] = static_cast<std::uint32_t>(i);
}

std::int64_t TrainingPairs::batch_rows(std::int64_t batch) const {
  return std::min(batch_size_, total_ - batch * batch_size_);
}

void TrainingPairs::read(std::int64_t batch, std::vector<PairExchange::Pair>& pairs,
                         std::vector<std::uint8_t>& labels) const {
  const std::int64_t base = batch * batch_size_, end = first_[batch + 1];
  // Positions are distinct, so that each row has a slot.
  std::vector<PairExchange::Pair> slots(batch_rows(batch), {kEmpty, kEmpty});
  for (std::int64_t k = first_[batch]; k < end; ++k) {
    __builtin_prefetch(&rows_[by_batch_[std::min(k + kAhead, end - 1)]]);
    const Row& row = rows_[by_batch_[k]];
    slots[row.position - base] = {row.user, row.item_and_label};
  }
  for (const auto& [user, item_and_label] : slots) {
    if (user == kEmpty) continue;
    pairs.push_back({user, item_and_label >> 1});
    labels.push_back(item_and_label & 1);
  }
}

}  // namespace graphlora
