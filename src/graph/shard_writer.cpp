#include "graph/shard_writer.hpp"

#include <torch/types.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"

namespace graphlora {
namespace {

constexpr std::uint16_t kUnused = std::numeric_limits<std::uint16_t>::max();

// A row that travels: to or from `peer`, needed from `first_group` on.
struct Travel {
  std::int32_t peer;
  std::uint16_t first_group;
  std::int32_t node;
  auto key() const { return std::tie(peer, first_group, node); }
  bool operator<(const Travel& other) const { return key() < other.key(); }
};

std::vector<std::int64_t> offsets_by_peer(const std::vector<Travel>& travels, int parts) {
  std::vector<std::int64_t> offsets(parts + 1, 0);
  for (const Travel& travel : travels) ++offsets[travel.peer + 1];
  for (int part = 0; part < parts; ++part) offsets[part + 1] += offsets[part];
  return offsets;
}

}  // namespace

std::string shard_file_name(int part) { return fmt::format("part-{:05d}.safetensors", part); }

ShardWriter::ShardWriter(const BipartiteGraph& graph, const Division& division, int parts,
                         int groups)
    : graph_(graph), owner_(division.owner), parts_(parts), groups_(groups), hubs_(division.hubs) {
  check_division(graph, division, parts);
  for (const std::uint16_t group : graph.group) {
    if (group >= groups) throw DataError("partition: an edge of group {} of {}", group, groups);
  }
  part_offsets_.assign(parts + 1, 0);
  for (const std::int32_t part : owner_) ++part_offsets_[part + 1];
  for (int part = 0; part < parts; ++part) part_offsets_[part + 1] += part_offsets_[part];
  part_nodes_.resize(graph.nodes);
  std::vector<std::int64_t> fill(part_offsets_.begin(), part_offsets_.end() - 1);
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    part_nodes_[fill[owner_[node]]++] = static_cast<std::int32_t>(node);
  }

  std::sort(hubs_.begin(), hubs_.end(), [&](std::int64_t a, std::int64_t b) {
    return std::pair(owner_[a], a) < std::pair(owner_[b], b);
  });
  hub_offsets_.assign(parts + 1, 0);
  is_hub_.assign(graph.nodes, false);
  hub_degree_.assign(hubs_.size() * groups, 0);
  for (std::size_t k = 0; k < hubs_.size(); ++k) {
    const std::int64_t hub = hubs_[k];
    ++hub_offsets_[owner_[hub] + 1];
    is_hub_[hub] = true;
    for (std::int64_t e = graph.row_offsets[hub]; e < graph.row_offsets[hub + 1]; ++e) {
      ++hub_degree_[k * groups + graph.group[e]];
    }
  }
  for (int part = 0; part < parts; ++part) hub_offsets_[part + 1] += hub_offsets_[part];

  local_.assign(graph.nodes, -1);
  first_group_.assign(graph.nodes, kUnused);
}

void ShardWriter::write(const std::filesystem::path& directory, int part,
                        const std::map<std::string, std::string>& metadata) {
  const auto& graph = graph_;
  std::vector<std::int64_t> owned;
  std::vector<std::int32_t> boundary;
  std::vector<Travel> receives, sends, sends_of_row;
  std::int64_t entries = 0;
  for (std::int64_t k = part_offsets_[part]; k < part_offsets_[part + 1]; ++k) {
    const std::int32_t node = part_nodes_[k];
    if (is_hub_[node]) {  // its edges are its buyers' owners'
      owned.push_back(node);
      continue;
    }
    entries += graph.degree(node);
    sends_of_row.clear();
    for (std::int64_t e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      const std::int32_t source = graph.col[e];
      if (owner_[source] == part || is_hub_[source]) continue;
      // Entries are sorted by group, so the first one met in this row is the row's least.
      sends_of_row.push_back({owner_[source], graph.group[e], node});
      if (first_group_[source] == kUnused) receives.push_back({owner_[source], 0, source});
      first_group_[source] = std::min(first_group_[source], graph.group[e]);
    }
    if (sends_of_row.empty()) {
      owned.push_back(node);
      continue;
    }
    boundary.push_back(node);
    std::sort(sends_of_row.begin(), sends_of_row.end());
    for (std::size_t s = 0; s < sends_of_row.size(); ++s) {
      if (s == 0 || sends_of_row[s].peer != sends_of_row[s - 1].peer) {
        sends.push_back(sends_of_row[s]);
      }
    }
  }
  owned.insert(owned.end(), boundary.begin(), boundary.end());
  for (Travel& travel : receives) travel.first_group = first_group_[travel.node];
  std::sort(receives.begin(), receives.end());
  std::sort(sends.begin(), sends.end());

  const std::size_t locals = owned.size() + hubs_.size() + receives.size();
  if (locals > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw DataError("part {}: {} local nodes are beyond 2^31-1; use more parts (--parts)", part,
                    locals);
  }
  std::vector<std::int64_t> halo;
  std::vector<std::uint16_t> halo_first_group;
  std::int32_t next = 0;
  for (const std::int64_t node : owned) local_[node] = next++;
  // Also a hub of this part's own is read at its hub column, where its completed row stands.
  for (const std::int64_t hub : hubs_) local_[hub] = next++;
  for (const Travel& travel : receives) {
    local_[travel.node] = next++;
    halo.push_back(travel.node);
    halo_first_group.push_back(travel.first_group);
    first_group_[travel.node] = kUnused;
  }

  std::vector<std::int64_t> row_offsets;
  std::vector<std::int32_t> col;
  row_offsets.reserve(owned.size() * (groups_ + 1));
  col.reserve(entries);
  const auto hub_begin = static_cast<std::int32_t>(owned.size());
  const auto hub_end = hub_begin + static_cast<std::int32_t>(hubs_.size());
  // Pointers of (hub, group), first as counts; a hub's last one equals the next hub's first.
  std::vector<std::int64_t> hub_row_offsets(hubs_.size() * (groups_ + 1), 0);
  const auto hub_pointer = [&](std::int32_t column, int group) -> std::int64_t& {
    return hub_row_offsets[static_cast<std::size_t>(column - hub_begin) * (groups_ + 1) + group];
  };
  for (const std::int64_t node : owned) {
    const std::int64_t end = graph.row_offsets[node + (is_hub_[node] ? 0 : 1)];
    std::int64_t e = graph.row_offsets[node];
    for (int group = 0; group < groups_; ++group) {
      row_offsets.push_back(static_cast<std::int64_t>(col.size()));
      for (; e < end && graph.group[e] == group; ++e) {
        const std::int32_t column = local_[graph.col[e]];
        col.push_back(column);
        if (column >= hub_begin && column < hub_end) ++hub_pointer(column, group);
      }
      std::sort(col.begin() + row_offsets.back(), col.end());
    }
    row_offsets.push_back(static_cast<std::int64_t>(col.size()));
  }

  // The rows' hub columns, transposed; going through rows in order leaves each hub's ascending.
  std::int64_t hub_entries = 0;
  for (std::int64_t& pointer : hub_row_offsets) {
    pointer = std::exchange(hub_entries, hub_entries + pointer);
  }
  std::vector<std::int32_t> hub_col(hub_entries);
  std::vector<std::int64_t> fill = hub_row_offsets;
  for (std::size_t row = 0; row < owned.size() && hub_entries > 0; ++row) {
    for (int group = 0; group < groups_; ++group) {
      const std::int64_t* pointers = row_offsets.data() + row * (groups_ + 1) + group;
      for (std::int64_t e = pointers[0]; e < pointers[1]; ++e) {
        if (col[e] < hub_begin || col[e] >= hub_end) continue;
        const auto hub = static_cast<std::size_t>(col[e] - hub_begin);
        hub_col[fill[hub * (groups_ + 1) + group]++] = static_cast<std::int32_t>(row);
      }
    }
  }

  std::vector<std::int64_t> halo_offsets = offsets_by_peer(receives, parts_);
  std::vector<std::int64_t> send_offsets = offsets_by_peer(sends, parts_);
  std::vector<std::int64_t> send_rows;
  std::vector<std::uint16_t> send_first_group;
  for (const Travel& travel : sends) {
    send_rows.push_back(local_[travel.node]);
    send_first_group.push_back(travel.first_group);
  }
  write_safetensors(directory / shard_file_name(part),
                    {{"owned", view_of(owned)},
                     {"halo", view_of(halo)},
                     {"halo_offsets", view_of(halo_offsets)},
                     {"row_offsets", view_of(row_offsets)},
                     {"send_offsets", view_of(send_offsets)},
                     {"send_rows", view_of(send_rows)},
                     {"hubs", view_of(hubs_)},
                     {"hub_offsets", view_of(hub_offsets_)},
                     {"hub_row_offsets", view_of(hub_row_offsets)},
                     {"col", view_of(col)},
                     {"hub_col", view_of(hub_col)},
                     {"hub_degree", view_of(hub_degree_)},
                     {"halo_first_group", view_of(halo_first_group)},
                     {"send_first_group", view_of(send_first_group)}},
                    metadata);
}

}  // namespace graphlora
