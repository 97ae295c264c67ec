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

/// For a list of pairs, brings each pair's item to the owner of its user and, if asked, its user to
/// the owner of its item. Who sends what follows from the list and the node map, so that only rows
/// travel, each once to a rank.
class PairExchange {
 public:
  struct Pair {
    std::uint32_t user, item;  ///< node ids
  };
  /// Where a pair's ends are: rows of the owned table, or (from n on) of the fetched rows.
  struct Place {
    std::uint32_t pair;        ///< index into the list
    std::uint32_t user, item;  ///< row; foreign ones only if `both` or, for items, always
  };
  /// What travels, kept from one exchange to the next.
  struct Buffers {
    at::Tensor send, received;
  };

  /// `owned`: n, rows of this rank's table. Local.
  PairExchange(Communicator& world, const NodeMap& map, std::int64_t owned, bool both)
      : world_(&world), map_(&map), owned_(owned), both_(both) {}

  /// Makes the plan for a list of pairs: on every rank the same list, or that without pairs that
  /// have no end there. Local.
  void assign(std::span<const Pair> pairs);

  /// Pairs with an end that this rank owns (without `both`: whose user it owns), in their order.
  const std::vector<Place>& places() const { return places_; }
  bool owns(std::uint32_t row) const { return row < owned_; }
  /// Issues the exchange of foreign rows of `table_nD`, which may change afterwards; when the
  /// handle was waited for, [f, D] of them begin at `buffers.received`. Collective.
  Handle start(const at::Tensor& table_nD, Buffers& buffers, Traffic traffic) const;

 private:
  /// One end of a pair that another rank owns.
  struct Foreign {
    std::uint32_t place, number;  // number: among the rows that its owner sends here
    int owner;
    bool is_item;
  };
  /// Numbers (peer, node) keys from 0 for each peer, in the order of their first occurrence.
  class Numbering {
   public:
    void reset(std::size_t most, int peers);
    /// The key's number, and whether it is new.
    std::pair<std::uint32_t, bool> number(int peer, std::uint32_t node);
    const std::vector<std::int64_t>& counts() const { return counts_; }

   private:
    std::vector<std::uint64_t> keys_;
    std::vector<std::uint32_t> numbers_;
    std::vector<std::int64_t> counts_;
  };
  struct Sent {
    int peer;
    std::uint32_t row;
  };

  Communicator* world_;
  const NodeMap* map_;
  std::int64_t owned_;
  bool both_;
  std::vector<Place> places_;
  std::vector<Foreign> foreign_;
  std::vector<std::pair<int, std::uint32_t>> wanted_;  // (peer, node) to be sent, with repeats
  std::vector<Sent> sent_;
  Numbering sending_, receiving_;
  std::vector<std::int64_t> send_rows_;
};

}  // namespace graphlora
