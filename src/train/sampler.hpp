// Which rows make up a step's global batch: computed from (seed, step), never stored.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.hpp"
#include "data/dataset.hpp"
#include "graph/training_order.hpp"

namespace graphlora {

struct Batch {
  std::int64_t step = 0, epoch = 0;
  int group = 0;                   ///< cut group all rows come from
  std::vector<std::int64_t> rows;  ///< dataset rows
};

/// Training rows by cut group, each group's rows sorted by (user, time, row) and cut into blocks of
/// `block` rows; an epoch is a keyed permutation of the blocks of every group; batches of all
/// groups are interleaved by (seed, epoch). Keeps a reference to the order, and no rows of its own
/// unless `max_examples` limits them.
class Sampler {
 public:
  /// `batch_size` must be a multiple of `block` (ConfigError). `max_examples` > 0: only that many
  /// training rows (those with the least hash) are used. Throws DataError if no row.
  Sampler(const Dataset& dataset, const CutRule& cut, const TrainingOrder& order,
          std::int64_t batch_size, std::uint64_t seed, std::int64_t block,
          std::int64_t max_examples);
  std::int64_t batches_per_epoch() const;
  /// `step` from 1. Throws DataError if the stored order leads to a row that is none of the group.
  Batch batch(std::int64_t step) const;

 private:
  std::int64_t count(int group) const;
  std::int64_t row(int group, std::int64_t i) const;

  const TrainingOrder& order_;
  std::vector<std::vector<std::int64_t>> chosen_;  // by group, where max_examples limits them
  std::vector<std::int64_t> first_batch_;          // of each group, and the total behind them
  std::int64_t block_, blocks_per_batch_ = 0;
  std::uint64_t seed_;
};

/// What an example costs: of its tokens `shared` are computed once for all examples of its group
/// that are on one replica.
struct ExampleCost {
  std::int64_t tokens = 0, shared = 0;
  std::size_t group = 0;  ///< any numbers, in any order
};

/// Groups dealt whole, most tokens first, to the replica with the fewest tokens (ties: lowest
/// replica, lowest index). Where groups in 2, 4, 8 … pieces leave the fullest replica less to
/// compute, they are divided. Returns for each replica the indices into `examples`, ascending.
std::vector<std::vector<std::size_t>> deal(std::span<const ExampleCost> examples, int replicas);

}  // namespace graphlora
