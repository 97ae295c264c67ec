#include "graph/shard_writer.hpp"

#include <torch/types.h>

#include <algorithm>
#include <limits>
#include <tuple>

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

ShardWriter::ShardWriter(const BipartiteGraph& graph, const std::vector<std::int32_t>& owner,
                         int parts, int groups)
    : graph_(graph), owner_(owner), parts_(parts), groups_(groups) {
  part_offsets_.assign(parts + 1, 0);
  for (const std::int32_t part : owner) ++part_offsets_[part + 1];
  for (int part = 0; part < parts; ++part) part_offsets_[part + 1] += part_offsets_[part];
  part_nodes_.resize(graph.nodes);
  std::vector<std::int64_t> fill(part_offsets_.begin(), part_offsets_.end() - 1);
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    part_nodes_[fill[owner[node]]++] = static_cast<std::int32_t>(node);
  }
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
    entries += graph.degree(node);
    sends_of_row.clear();
    for (std::int64_t e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      const std::int32_t source = graph.col[e];
      if (owner_[source] == part) continue;
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

  const std::size_t locals = owned.size() + receives.size();
  if (locals > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw DataError("part {}: {} local nodes are beyond 2^31-1; use more parts (--parts)", part,
                    locals);
  }
  std::vector<std::int64_t> halo;
  std::vector<std::uint16_t> halo_first_group;
  std::int32_t next = 0;
  for (const std::int64_t node : owned) local_[node] = next++;
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
  for (const std::int64_t node : owned) {
    std::int64_t e = graph.row_offsets[node];
    for (int group = 0; group < groups_; ++group) {
      row_offsets.push_back(static_cast<std::int64_t>(col.size()));
      for (; e < graph.row_offsets[node + 1] && graph.group[e] == group; ++e) {
        col.push_back(local_[graph.col[e]]);
      }
      std::sort(col.begin() + row_offsets.back(), col.end());
    }
    row_offsets.push_back(static_cast<std::int64_t>(col.size()));
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
                     {"col", view_of(col)},
                     {"halo_first_group", view_of(halo_first_group)},
                     {"send_first_group", view_of(send_first_group)}},
                    metadata);
}

}  // namespace graphlora
