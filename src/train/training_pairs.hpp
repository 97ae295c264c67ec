// The training rows that concern a rank, and their order in each epoch.
#pragma once
#include <cstdint>
#include <vector>

#include "data/dataset.hpp"
#include "graph/shard.hpp"
#include "train/pair_exchange.hpp"

namespace graphlora {

/// Training rows with an end that this rank owns, 20 bytes each. An epoch's order is a keyed
/// permutation of all training rows, the same at any number of ranks; a rank computes the places of
/// its own rows only.
class TrainingPairs {
 public:
  /// Throws DataError beyond 2^32 − 2 training rows or 2^31 − 1 nodes. Local.
  TrainingPairs(const Dataset& dataset, const NodeMap& map, int rank);

  std::int64_t total() const { return total_; }  ///< training rows, whoever owns their ends
  /// Which of this rank's `owned` rows have training rows.
  std::vector<std::uint8_t> trained(const NodeMap& map, int rank, std::int64_t owned) const;

  /// Orders the rows by `key` and cuts them into batches of `batch_size`, the last one perhaps
  /// short. Local.
  void start_epoch(std::uint64_t key, std::int64_t batch_size);
  std::int64_t batches() const { return static_cast<std::int64_t>(first_.size()) - 1; }
  /// Rows of a batch, over all ranks.
  std::int64_t batch_rows(std::int64_t batch) const;
  /// Appends this rank's rows of a batch in the batch's order. Local; threads may call it at once.
  void read(std::int64_t batch, std::vector<PairExchange::Pair>& pairs,
            std::vector<std::uint8_t>& labels) const;

 private:
  struct Row {
    std::uint32_t index, position;  // among all training rows; in the epoch's order
    std::uint32_t user, item_and_label;
  };
  std::int64_t total_ = 0, batch_size_ = 0;
  std::vector<Row> rows_;
  std::vector<std::uint32_t> by_batch_;  // indices of rows, batch by batch
  std::vector<std::int64_t> first_;      // of each batch in by_batch_
};

}  // namespace graphlora
