// The in-neighbourhood of some nodes: what a GNN must compute for them and nothing else.
// Shapes: f frontier rows of this rank, S rows asked for.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "graph/shard.hpp"

namespace graphlora {

/// Rows of one step, nearest first, and one plan per layer over them: the targets of layer l are
/// the rows at most L − l edges away from what was asked for, its sources those of layer l − 1.
struct Frontier {
  at::Tensor rows_f;              ///< i64, owned rows of the shard; sources of the first layer
  at::Tensor degree_f;            ///< i32, in the whole graph in force
  at::Tensor place_S;             ///< i64, where each row asked for stands among the last targets
  std::vector<GraphPlan> layers;  ///< first layer first
};

/// Builds frontiers of one shard. Keeps marks of its nodes between steps, so that building
/// costs what the frontier has, not what the shard has.
class FrontierBuilder {
 public:
  FrontierBuilder(const Shard& shard, Communicator& world);

  /// The frontier of owned rows `rows_S` (repeats allowed, possibly none) under a plan of the
  /// shard. `hops`: how far it reaches; nodes that far away have no in-edges. At least `layers`, or
  /// 0: exact. Collective.
  Frontier build(const GraphPlan& full, std::span<const std::int64_t> rows_S, std::int64_t layers,
                 std::int64_t hops);

 private:
  void mark_row(std::int64_t row, std::int32_t hop);
  void mark_slot(std::int32_t slot, std::int32_t hop);
  void mark_hub(std::int32_t hub, std::int32_t hop);
  void expand(const GraphPlan& full, std::int32_t hop, std::size_t first_row);
  void request(std::size_t first_slot, std::int32_t hop);
  void agree_on_hubs(std::int32_t hop);
  GraphPlan layer_plan(const GraphPlan& full, std::int32_t target_hop, std::int32_t source_hop,
                       std::int32_t reach) const;
  void forget();

  const Shard& shard_;
  Communicator& world_;
  std::vector<std::int32_t> row_hop_, slot_hop_, place_;  // of all nodes of the shard; -1: unmarked
  std::vector<std::int32_t> hub_hop_;
  std::vector<std::int64_t> rows_;   // marked rows, by (hop, row)
  std::vector<std::int32_t> slots_;  // marked halo slots, by (hop, slot)
  // What other ranks asked for, by rank, in the order they will receive it: places in rows_, hops.
  std::vector<std::vector<std::pair<std::int32_t, std::int32_t>>> asked_;
};

}  // namespace graphlora
