// Embeddings of both ends of (user, item) pairs, on the ranks that own either end.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "dist/communicator.hpp"
#include "graph/shard.hpp"

namespace graphlora {

/// For a list of pairs that every rank knows, brings each pair's item to the owner of its user and,
/// if asked, its user to the owner of its item. Who sends what follows from the list and the node
/// map, so that only rows travel, each once to a rank.
class PairExchange {
 public:
  struct Pair {
    std::int64_t user, item;  ///< node ids
  };
  /// Where a pair's ends are: rows of the owned table, or (from n on) of the fetched rows.
  struct Place {
    std::int64_t pair;        ///< index into the list
    std::int64_t user, item;  ///< row; foreign ones only if `both` or, for items, always
    bool owns_user, owns_item;
  };

  /// Local; the same list on every rank.
  PairExchange(Communicator& world, const NodeMap& map, std::int64_t owned,
               std::span<const Pair> pairs, bool both);

  /// Pairs with an end that this rank owns (without `both`: whose user it owns), in their order.
  const std::vector<Place>& places() const { return places_; }
  /// Foreign rows of `table_nD` → [f, D]. Collective.
  at::Tensor fetch(const at::Tensor& table_nD, Traffic traffic) const;

 private:
  Communicator& world_;
  std::vector<Place> places_;
  std::vector<std::int64_t> send_counts_, receive_counts_;
  at::Tensor send_rows_;
};

}  // namespace graphlora
