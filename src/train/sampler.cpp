#include "train/sampler.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/ceil_div.hpp"
#include "core/error.hpp"

namespace graphlora {
namespace {

std::uint64_t key(std::uint64_t seed, const char* purpose, std::int64_t epoch, int group) {
  const std::uint64_t of_epoch =
      splitmix64(hash_name(seed, purpose) ^ static_cast<std::uint64_t>(epoch));
  return splitmix64(of_epoch ^ static_cast<std::uint64_t>(group));
}

struct Shares {
  std::vector<std::vector<std::size_t>> examples;  // of each replica
  std::int64_t most = 0;                           // tokens of the fullest
};

/// Every group in so many pieces, dealt longest first.
Shares deal_pieces(std::span<const ExampleCost> examples,
                   const std::map<std::size_t, std::vector<std::size_t>>& groups,
                   std::size_t pieces, int replicas) {
  struct PieceOfGroup {
    std::span<const std::size_t> examples;
    std::int64_t tokens;
  };
  std::vector<PieceOfGroup> all;
  for (const auto& [name, group] : groups) {
    const std::size_t parts = std::min(pieces, group.size());
    for (std::size_t p = 0; p < parts; ++p) {
      const std::size_t begin = group.size() * p / parts, end = group.size() * (p + 1) / parts;
      const auto part = std::span(group).subspan(begin, end - begin);
      std::int64_t tokens = examples[part[0]].shared;
      for (const std::size_t i : part) tokens += examples[i].tokens - examples[i].shared;
      all.push_back({part, tokens});
    }
  }
  std::sort(all.begin(), all.end(), [](const PieceOfGroup& a, const PieceOfGroup& b) {
    return std::tuple(-a.tokens, a.examples[0]) < std::tuple(-b.tokens, b.examples[0]);
  });
  Shares shares{std::vector<std::vector<std::size_t>>(replicas)};
  std::vector<std::int64_t> tokens(replicas, 0);
  for (const PieceOfGroup& piece : all) {
    const auto least = std::min_element(tokens.begin(), tokens.end());
    *least += piece.tokens;
    auto& share = shares.examples[least - tokens.begin()];
    share.insert(share.end(), piece.examples.begin(), piece.examples.end());
  }
  shares.most = *std::max_element(tokens.begin(), tokens.end());
  return shares;
}

}  // namespace

Sampler::Sampler(const Dataset& dataset, const CutRule& cut, const TrainingOrder& order,
                 std::int64_t batch_size, std::uint64_t seed, std::int64_t block,
                 std::int64_t max_examples)
    : order_(order), block_(block), seed_(seed) {
  if (batch_size < 1 || block < 1 || batch_size % block != 0) {
    throw ConfigError("the batch size ({}) must be a positive multiple of the block size ({})",
                      batch_size, block);
  }
  blocks_per_batch_ = batch_size / block;
  if (max_examples > 0) {
    chosen_.resize(cut.groups());
    for (const std::int64_t row : dataset.sample(Split::train, max_examples, seed)) {
      chosen_[cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row])].push_back(
          row);
    }
    const auto key = [&](std::int64_t row) {
      return std::tuple(dataset.user()[row], dataset.time()[row], row);
    };
    for (std::vector<std::int64_t>& rows : chosen_) {
      std::sort(rows.begin(), rows.end(),
                [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });
    }
  }
  first_batch_.push_back(0);
  for (int group = 0; group < order.groups(); ++group) {
    first_batch_.push_back(first_batch_.back() +
                           ceil_div(ceil_div(count(group), block_), blocks_per_batch_));
  }
  if (batches_per_epoch() == 0) {
    throw DataError("{}: no training rows to sample from", dataset.directory().string());
  }
}

std::int64_t Sampler::count(int group) const {
  return chosen_.empty() ? order_.count(group) : std::ssize(chosen_[group]);
}

std::int64_t Sampler::row(int group, std::int64_t i) const {
  return chosen_.empty() ? order_.row(group, i) : chosen_[group][i];
}

std::int64_t Sampler::batches_per_epoch() const { return first_batch_.back(); }

Batch Sampler::batch(std::int64_t step) const {
  Batch batch;
  batch.step = step;
  batch.epoch = (step - 1) / batches_per_epoch();
  const KeyedPermutation order(static_cast<std::uint64_t>(batches_per_epoch()),
                               key(seed_, "batches", batch.epoch, 0));
  const auto number = static_cast<std::int64_t>(
      order(static_cast<std::uint64_t>((step - 1) % batches_per_epoch())));
  batch.group =
      static_cast<int>(std::upper_bound(first_batch_.begin(), first_batch_.end(), number) -
                       first_batch_.begin() - 1);

  const std::int64_t rows = count(batch.group), blocks = ceil_div(rows, block_);
  const KeyedPermutation shuffled(static_cast<std::uint64_t>(blocks),
                                  key(seed_, "blocks", batch.epoch, batch.group));
  const std::int64_t begin = (number - first_batch_[batch.group]) * blocks_per_batch_;
  const std::int64_t end = std::min(begin + blocks_per_batch_, blocks);
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t first = static_cast<std::int64_t>(shuffled(i)) * block_;
    const std::int64_t last = std::min(first + block_, rows);
    for (std::int64_t place = first; place < last; ++place)
      batch.rows.push_back(row(batch.group, place));
  }
  return batch;
}

std::vector<std::vector<std::size_t>> deal(std::span<const ExampleCost> examples, int replicas) {
  std::map<std::size_t, std::vector<std::size_t>> groups;
  std::size_t largest = 1;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    std::vector<std::size_t>& group = groups[examples[i].group];
    group.push_back(i);
    largest = std::max(largest, group.size());
  }
  Shares best;
  for (std::size_t pieces = 1;; pieces *= 2) {
    Shares shares = deal_pieces(examples, groups, pieces, replicas);
    if (best.examples.empty() || shares.most < best.most) best = std::move(shares);
    if (replicas == 1 || pieces >= largest) break;
  }
  for (auto& share : best.examples) std::sort(share.begin(), share.end());
  return best.examples;
}

}  // namespace graphlora
