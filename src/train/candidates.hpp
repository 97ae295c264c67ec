// Retrieval: the items with the largest E·E, found by the ranks that own them.
// Shapes: Q queries, D = d_e, v items of this rank.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/prompt.hpp"
#include "dist/communicator.hpp"
#include "graph/shard.hpp"

namespace graphlora {

struct Candidate {
  std::int64_t item = 0;  ///< 0…V-1
  float score = 0;        ///< E·E in fp32
};

/// Whose items are looked for, and which items he liked, oldest first.
struct Recipient {
  std::int64_t user_node = kUnknownNode;
  std::span<const std::int64_t> liked = {};
};

class CandidateSearch {
 public:
  /// `weight_nD`: E of the nodes `owned` by this rank, of which its items' rows are copied.
  /// `bias_columns`: the last two columns are (b_u, 1) of users and (1, b_v) of items. Local.
  CandidateSearch(Communicator& world, const NodeMap& map, const at::Tensor& owned,
                  std::int64_t users, const at::Tensor& weight_nD, bool bias_columns);

  /// What each recipient's items are looked for with, [Q, D] on every rank: E of the user. Who has
  /// none (no training rows, or not in the data) gets the mean E of the liked items that have one,
  /// with user bias 0. `recipients`: on every rank the same. Collective.
  at::Tensor queries(std::span<const Recipient> recipients) const;

  /// The best `count` items of each query, on every rank: by score, of equal ones the lesser item
  /// first. `excluded`: for each query items to leave out, ascending; those of other ranks need not
  /// be among them. The same result at any number of ranks and threads. `query_QD`, `count`: on
  /// every rank the same. Collective; throws DataError on every rank where a score is not a number.
  std::vector<std::vector<Candidate>> best(const at::Tensor& query_QD,
                                           std::span<const std::span<const std::int32_t>> excluded,
                                           std::int64_t count) const;

  /// For each query and each of its `items` (not excluded ones, on every rank the same): how many
  /// items stand before it in that order, 0 for the best one. Costs no memory that grows with the
  /// catalogue. Otherwise as `best`. Collective.
  std::vector<std::vector<std::int64_t>> places(
      const at::Tensor& query_QD, std::span<const std::span<const std::int32_t>> excluded,
      std::span<const std::vector<std::int64_t>> items) const;

 private:
  template <class Visit>
  void scan(const at::Tensor& query_QD, std::span<const std::span<const std::int32_t>> excluded,
            std::int64_t chunks, const Visit& visit) const;
  /// Rows of E of any nodes, on every rank; every rank asks for the same ones. Collective.
  at::Tensor rows_of(std::span<const std::int64_t> nodes) const;

  Communicator& world_;
  const NodeMap& map_;
  std::int64_t users_;
  at::Tensor weight_nD_;
  bool bias_columns_;
  std::vector<std::int32_t> items_;  // of this rank, ascending
  at::Tensor item_vD_;               // their rows, on the CPU
};

}  // namespace graphlora
