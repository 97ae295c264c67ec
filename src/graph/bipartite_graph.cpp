#include "graph/bipartite_graph.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "core/error.hpp"

namespace graphlora {
namespace {

void check_node_count(std::int64_t users, std::int64_t items) {
  constexpr std::int64_t kMaxNodes = std::numeric_limits<std::int32_t>::max();
  if (users < 0 || items < 0 || users > kMaxNodes - items) {
    throw DataError("graph: {} users and {} items are more nodes than the limit of {}", users,
                    items, kMaxNodes);
  }
}

// Entries of one row as sortable keys: (column, group) to find repeats, (group, column) as stored.
void sort_row(std::uint64_t* begin, std::uint64_t*& end) {
  std::sort(begin, end);
  std::uint64_t* kept = begin;
  for (std::uint64_t* entry = begin; entry != end; ++entry) {
    // Equal columns stand together with ascending groups: the last one wins.
    if (entry + 1 != end && (entry[0] >> 16) == (entry[1] >> 16)) continue;
    *kept++ = (*entry & 0xffff) << 32 | *entry >> 16;
  }
  end = kept;
  std::sort(begin, end);
}

}  // namespace

BipartiteGraph build_graph(std::int64_t users, std::int64_t items,
                           const std::vector<BipartiteGraph::Edge>& edges) {
  check_node_count(users, items);
  BipartiteGraph graph;
  graph.nodes = users + items;
  graph.users = users;
  std::vector<std::int64_t> offsets(graph.nodes + 1, 0);
  for (const auto& edge : edges) {
    if (edge.user < 0 || edge.user >= users || edge.item < users || edge.item >= graph.nodes) {
      throw DataError(
          "graph: edge ({}, {}) does not join a user and an item of {} users and {} items",
          edge.user, edge.item, users, items);
    }
    ++offsets[edge.user + 1];
    ++offsets[edge.item + 1];
  }
  for (std::int64_t node = 0; node < graph.nodes; ++node) offsets[node + 1] += offsets[node];

  std::vector<std::uint64_t> entries(edges.size() * 2);
  std::vector<std::int64_t> fill(offsets.begin(), offsets.end() - 1);
  for (const auto& edge : edges) {
    const auto key = [&](std::int32_t col) {
      return static_cast<std::uint64_t>(col) << 16 | edge.group;
    };
    entries[fill[edge.user]++] = key(edge.item);
    entries[fill[edge.item]++] = key(edge.user);
  }
  at::parallel_for(0, graph.nodes, 1024, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t node = first; node < last; ++node) {
      std::uint64_t* end = entries.data() + fill[node];
      sort_row(entries.data() + offsets[node], end);
      fill[node] = end - entries.data();
    }
  });

  graph.row_offsets.reserve(graph.nodes + 1);
  graph.row_offsets.push_back(0);
  graph.col.reserve(entries.size());
  graph.group.reserve(entries.size());
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    for (std::int64_t entry = offsets[node]; entry < fill[node]; ++entry) {
      graph.group.push_back(static_cast<std::uint16_t>(entries[entry] >> 32));
      graph.col.push_back(static_cast<std::int32_t>(entries[entry]));
    }
    graph.row_offsets.push_back(static_cast<std::int64_t>(graph.col.size()));
  }
  return graph;
}

BipartiteGraph build_training_graph(const Dataset& dataset, const CutRule& cut) {
  check_node_count(dataset.users(), dataset.items());
  std::vector<BipartiteGraph::Edge> edges;
  for (const std::int64_t row : dataset.rows_of(Split::train)) {
    if (dataset.label()[row] == 0) continue;
    edges.push_back({static_cast<std::int32_t>(dataset.user_node(row)),
                     static_cast<std::int32_t>(dataset.item_node(row)),
                     cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row])});
  }
  return build_graph(dataset.users(), dataset.items(), edges);
}

}  // namespace graphlora
