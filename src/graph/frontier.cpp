#include "graph/frontier.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "core/error.hpp"
#include "core/tensor_view.hpp"

namespace graphlora {
namespace {

constexpr std::int32_t kUnmarked = -1;
constexpr std::int32_t kUnreached = std::numeric_limits<std::int32_t>::max();

template <class T>
at::Tensor copy_of(const std::vector<T>& values) {
  return view_of(values).clone();
}

/// Lists filled by counting first: count(row) for every entry, then add(row, entry) in order.
class ListBuilder {
 public:
  explicit ListBuilder(std::int64_t rows) : pointers_(rows + 1, 0) {}
  void count(std::int64_t row) { ++pointers_[row + 1]; }
  void allocate() {
    std::partial_sum(pointers_.begin(), pointers_.end(), pointers_.begin());
    index_.resize(pointers_.back());
    fill_.assign(pointers_.begin(), pointers_.end() - 1);
  }
  void add(std::int64_t row, std::int64_t entry) {
    index_[fill_[row]++] = static_cast<std::int32_t>(entry);
  }
  RowLists lists() const { return make_row_lists(pointers_, index_); }

 private:
  std::vector<std::int64_t> pointers_, fill_;
  std::vector<std::int32_t> index_;
};

}  // namespace

FrontierBuilder::FrontierBuilder(const Shard& shard, Communicator& world)
    : shard_(shard),
      world_(world),
      row_hop_(shard.owned_count(), kUnmarked),
      slot_hop_(shard.halo_count(), kUnmarked),
      place_(shard.owned_count(), kUnmarked),
      hub_hop_(shard.hub_count(), kUnreached),
      asked_(world.size()) {}

void FrontierBuilder::mark_row(std::int64_t row, std::int32_t hop) {
  if (row_hop_[row] != kUnmarked) return;
  row_hop_[row] = hop;
  rows_.push_back(row);
}

void FrontierBuilder::mark_slot(std::int32_t slot, std::int32_t hop) {
  if (slot_hop_[slot] != kUnmarked) return;
  slot_hop_[slot] = hop;
  slots_.push_back(slot);
}

void FrontierBuilder::mark_hub(std::int32_t hub, std::int32_t hop) {
  hub_hop_[hub] = std::min(hub_hop_[hub], hop);
}

// Marks the sources of the rows from `first_row` on and of the hubs at `hop`.
void FrontierBuilder::expand(const GraphPlan& full, std::int32_t hop, std::size_t first_row) {
  const std::size_t last_row = rows_.size();
  const auto owned = static_cast<std::int32_t>(full.owned),
             hubs_end = static_cast<std::int32_t>(full.owned + full.hubs);
  for (std::size_t i = first_row; i < last_row; ++i) {
    full.in_edges.each(rows_[i], [&](std::int32_t column) {
      if (column < owned) {
        mark_row(column, hop + 1);
      } else if (column < hubs_end) {
        mark_hub(column - owned, hop + 1);
      } else {
        mark_slot(column - hubs_end, hop + 1);
      }
    });
  }
  for (std::size_t hub = 0; hub < hub_hop_.size(); ++hub) {
    if (hub_hop_[hub] != hop) continue;
    full.hub_in.each(static_cast<std::int64_t>(hub),
                     [&](std::int32_t row) { mark_row(row, hop + 1); });
  }
}

// Tells the owners of the slots from `first_slot` on, and marks what the others ask for. A slot is
// named by its place in the list of rows that its owner sends to this rank.
void FrontierBuilder::request(std::size_t first_slot, std::int32_t hop) {
  std::sort(slots_.begin() + static_cast<std::ptrdiff_t>(first_slot), slots_.end());
  const auto halo_offsets = values_of<std::int64_t>(shard_.halo_offsets());
  const auto send_offsets = values_of<std::int64_t>(shard_.send_offsets());
  const auto send_rows = values_of<std::int64_t>(shard_.send_rows());
  std::vector<std::int64_t> counts(world_.size(), 0);
  std::vector<std::int32_t> places;
  std::size_t owner = 0;
  for (std::size_t i = first_slot; i < slots_.size(); ++i) {
    while (slots_[i] >= halo_offsets[owner + 1]) ++owner;
    ++counts[owner];
    places.push_back(static_cast<std::int32_t>(slots_[i] - halo_offsets[owner]));
  }
  const auto asked_counts = world_.exchange_counts(counts, Traffic::control);
  at::Tensor asked = at::empty(
      {std::accumulate(asked_counts.begin(), asked_counts.end(), std::int64_t{0})}, at::kInt);
  world_.all_to_all_rows(copy_of(places), counts, asked, asked_counts, Traffic::control).wait();
  const auto* place = asked.const_data_ptr<std::int32_t>();
  for (int rank = 0; rank < world_.size(); ++rank) {
    for (std::int64_t i = 0; i < asked_counts[rank]; ++i, ++place) {
      if (*place < 0 || *place >= send_offsets[rank + 1] - send_offsets[rank]) {
        throw DataError("frontier: rank {} asks for row {} of the {} that it is sent", rank, *place,
                        send_offsets[rank + 1] - send_offsets[rank]);
      }
      const std::int64_t row = send_rows[send_offsets[rank] + *place];
      mark_row(row, hop);
      asked_[rank].emplace_back(static_cast<std::int32_t>(row), hop);
    }
  }
}

// The hops of hubs over all ranks; owners mark the rows of those at `hop`.
void FrontierBuilder::agree_on_hubs(std::int32_t hop) {
  if (hub_hop_.empty()) return;
  world_.all_reduce(view_of(hub_hop_), ReduceOp::min, Traffic::control).wait();
  const auto own_rows = values_of<std::int64_t>(shard_.hub_rows());
  for (std::size_t i = 0; i < own_rows.size(); ++i)
    if (hub_hop_[shard_.first_own_hub() + static_cast<std::int64_t>(i)] == hop)
      mark_row(own_rows[i], hop);
}

GraphPlan FrontierBuilder::layer_plan(const GraphPlan& full, std::int32_t target_hop,
                                      std::int32_t source_hop, std::int32_t reach) const {
  const auto up_to = [&](std::int32_t hop) {
    return std::partition_point(rows_.begin(), rows_.end(),
                                [&](std::int64_t row) { return row_hop_[row] <= hop; }) -
           rows_.begin();
  };
  GraphPlan plan;
  plan.owned = up_to(source_hop);
  plan.targets = up_to(target_hop);

  // Rows at hop 0 stand by row, and the shard's interior rows have the lowest numbers.
  while (plan.interior < plan.targets && rows_[plan.interior] < shard_.interior_count() &&
         row_hop_[rows_[plan.interior]] == 0)
    ++plan.interior;

  // Hubs that are sources here; those that are targets are among them.
  std::vector<std::int32_t> hub_column(hub_hop_.size(), kUnmarked);
  std::vector<std::int64_t> hubs, hub_rows, hub_targets;
  plan.hub_counts.assign(world_.size(), 0);
  std::int64_t of_rank = 0, owner = 0;
  for (std::size_t hub = 0; hub < hub_hop_.size(); ++hub, ++of_rank) {
    while (of_rank == full.hub_counts[owner]) of_rank = 0, ++owner;
    if (hub_hop_[hub] > source_hop) continue;
    hub_column[hub] = static_cast<std::int32_t>(hubs.size());
    hubs.push_back(static_cast<std::int64_t>(hub));
    ++plan.hub_counts[owner];
    if (owner != world_.rank()) continue;
    if (hub_hop_[hub] <= target_hop) hub_targets.push_back(std::ssize(hub_rows));
    hub_rows.push_back(
        place_[values_of<std::int64_t>(shard_.hub_rows())[hub - shard_.first_own_hub()]]);
  }
  plan.hubs = std::ssize(hubs);
  plan.hub_rows = copy_of(hub_rows);
  plan.hub_targets = copy_of(hub_targets);

  // Halo slots by owner, within an owner by (hop, slot), as the owner knows them.
  const auto halo_offsets = values_of<std::int64_t>(shard_.halo_offsets());
  std::vector<std::vector<std::int32_t>> slots_of(world_.size());
  for (const std::int32_t slot : slots_) {
    if (slot_hop_[slot] > source_hop) continue;
    const auto next = std::upper_bound(halo_offsets.begin(), halo_offsets.end(), slot);
    slots_of[next - halo_offsets.begin() - 1].push_back(slot);
  }
  std::unordered_map<std::int32_t, std::int32_t> slot_column;
  for (const auto& slots : slots_of) {
    plan.receive_counts.push_back(std::ssize(slots));
    for (const std::int32_t slot : slots)
      slot_column.emplace(slot, static_cast<std::int32_t>(slot_column.size()));
  }
  plan.halo = plan.halo_slots = std::ssize(slot_column);
  plan.receive_rows = at::arange(plan.halo, at::kLong);
  std::vector<std::int64_t> send_rows;
  for (const auto& asked : asked_) {
    plan.send_counts.push_back(0);
    for (const auto& [row, hop] : asked) {
      if (hop > source_hop) break;
      send_rows.push_back(place_[row]);
      ++plan.send_counts.back();
    }
  }
  plan.send_rows = copy_of(send_rows);
  plan.homecoming = places_of(plan.send_rows.cpu(), 0, plan.owned);

  const std::int64_t first_hub = plan.owned, first_halo = plan.owned + plan.hubs;
  const auto column_of = [&](std::int32_t column) -> std::int64_t {
    if (column < full.owned) return place_[column];
    column -= static_cast<std::int32_t>(full.owned);
    if (column < full.hubs) return first_hub + hub_column[column];
    return first_halo + slot_column.at(column - static_cast<std::int32_t>(full.hubs));
  };
  // visit_edge(target, column), visit_hub_edge(hub, source).
  const auto each_edge = [&](const auto& visit_edge, const auto& visit_hub_edge) {
    for (std::int64_t i = 0; i < plan.targets; ++i) {
      if (row_hop_[rows_[i]] >= reach) break;
      full.in_edges.each(rows_[i], [&](std::int32_t column) { visit_edge(i, column_of(column)); });
    }
    for (std::int64_t h = 0; h < plan.hubs; ++h) {
      if (hub_hop_[hubs[h]] > target_hop || hub_hop_[hubs[h]] >= reach) continue;
      full.hub_in.each(hubs[h], [&](std::int32_t row) { visit_hub_edge(h, place_[row]); });
    }
  };
  ListBuilder in(plan.targets), out(plan.owned), halo(plan.halo_slots), hub_in(plan.hubs),
      hub_out(plan.hubs);
  const auto transposed = [&](std::int64_t column, const auto& to) {
    if (column < first_hub) {
      to(out, column);
    } else if (column < first_halo) {
      to(hub_out, column - first_hub);
    } else {
      to(halo, column - first_halo);
    }
  };
  each_edge(
      [&](std::int64_t target, std::int64_t column) {
        in.count(target);
        transposed(column, [](ListBuilder& lists, std::int64_t row) { lists.count(row); });
      },
      [&](std::int64_t hub, std::int64_t source) {
        hub_in.count(hub);
        out.count(source);
      });
  for (ListBuilder* lists : {&in, &out, &halo, &hub_in, &hub_out}) lists->allocate();
  each_edge(
      [&](std::int64_t target, std::int64_t column) {
        in.add(target, column);
        transposed(column, [&](ListBuilder& lists, std::int64_t row) { lists.add(row, target); });
        ++plan.entries;
      },
      [&](std::int64_t hub, std::int64_t source) {
        hub_in.add(hub, source);
        out.add(source, plan.targets + hub);
        ++plan.entries;
      });
  plan.in_edges = in.lists();
  plan.out_edges = out.lists();
  plan.halo_uses = halo.lists();
  plan.hub_in = hub_in.lists();
  plan.hub_out = hub_out.lists();
  return plan;
}

void FrontierBuilder::forget() {
  for (const std::int64_t row : rows_) row_hop_[row] = place_[row] = kUnmarked;
  for (const std::int32_t slot : slots_) slot_hop_[slot] = kUnmarked;
  std::fill(hub_hop_.begin(), hub_hop_.end(), kUnreached);
  rows_.clear();
  slots_.clear();
  for (auto& asked : asked_) asked.clear();
}

Frontier FrontierBuilder::build(const GraphPlan& full, std::span<const std::int64_t> rows_S,
                                std::int64_t layers, std::int64_t hops) {
  const auto reach = static_cast<std::int32_t>(hops > 0 ? std::min(hops, layers) : layers);
  for (const std::int64_t row : rows_S) mark_row(row, 0);
  std::sort(rows_.begin(), rows_.end());
  const auto own_rows = values_of<std::int64_t>(shard_.hub_rows());
  for (std::size_t i = 0; i < own_rows.size(); ++i) {
    if (row_hop_[own_rows[i]] == 0)
      mark_hub(static_cast<std::int32_t>(shard_.first_own_hub() + static_cast<std::int64_t>(i)), 0);
  }
  agree_on_hubs(0);
  std::size_t first_row = 0;
  for (std::int32_t hop = 0; hop < reach; ++hop) {
    const std::size_t new_rows = rows_.size(), new_slots = slots_.size();
    expand(full, hop, first_row);
    request(new_slots, hop + 1);
    agree_on_hubs(hop + 1);
    std::sort(rows_.begin() + static_cast<std::ptrdiff_t>(new_rows), rows_.end());
    first_row = new_rows;
  }
  for (std::size_t i = 0; i < rows_.size(); ++i) place_[rows_[i]] = static_cast<std::int32_t>(i);

  Frontier frontier;
  frontier.rows_f = copy_of(rows_);
  frontier.degree_f = full.degree_n.cpu().index_select(0, frontier.rows_f);
  std::vector<std::int64_t> places;
  for (const std::int64_t row : rows_S) places.push_back(place_[row]);
  frontier.place_S = copy_of(places);
  for (std::int64_t layer = 1; layer <= layers; ++layer) {
    const auto capped = [&](std::int64_t hop) {
      return std::min(reach, static_cast<std::int32_t>(hop));
    };
    frontier.layers.push_back(
        layer_plan(full, capped(layers - layer), capped(layers - layer + 1), reach));
    GraphPlan& plan = frontier.layers.back();
    plan.degree_n = frontier.degree_f.narrow(0, 0, plan.owned);
  }
  forget();
  return frontier;
}

}  // namespace graphlora
