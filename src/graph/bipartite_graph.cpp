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

// Sorts the rows [first, last) of offsets by (group, column). `unique`: a column that occurs
// several times is kept once, with its highest group. `ends` receives where each row's entries end.
void sort_rows(BipartiteGraph& graph, const std::vector<std::int64_t>& offsets, std::int64_t first,
               std::int64_t last, bool unique, std::vector<std::int64_t>& ends) {
  at::parallel_for(first, last, 1024, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint64_t> keys;
    for (std::int64_t node = begin; node < end; ++node) {
      keys.clear();
      for (std::int64_t e = offsets[node]; e < ends[node]; ++e) {
        const auto col = static_cast<std::uint64_t>(graph.col[e]);
        const auto group = static_cast<std::uint64_t>(graph.group[e]);
        keys.push_back(unique ? col << 16 | group : group << 32 | col);
      }
      std::sort(keys.begin(), keys.end());
      if (unique) {
        std::size_t kept = 0;
        for (std::size_t k = 0; k < keys.size(); ++k) {
          // Equal columns stand together with ascending groups: the last one wins.
          if (k + 1 < keys.size() && keys[k] >> 16 == keys[k + 1] >> 16) continue;
          keys[kept++] = (keys[k] & 0xffff) << 32 | keys[k] >> 16;
        }
        keys.resize(kept);
        std::sort(keys.begin(), keys.end());
      }
      std::int64_t e = offsets[node];
      for (const std::uint64_t key : keys) {
        graph.group[e] = static_cast<std::uint16_t>(key >> 32);
        graph.col[e++] = static_cast<std::int32_t>(key);
      }
      ends[node] = e;
    }
  });
}

// `for_each_edge(visit)` calls visit(user node, item node, row) for every edge, the same each time;
// `group_of(user node, item node, row)` is its group. The lists are never copied: beside the graph
// itself this needs 8 bytes a node.
template <class ForEachEdge, class GroupOf>
BipartiteGraph build(std::int64_t users, std::int64_t items, const ForEachEdge& for_each_edge,
                     const GroupOf& group_of) {
  check_node_count(users, items);
  BipartiteGraph graph;
  graph.nodes = users + items;
  graph.users = users;
  auto& offsets = graph.row_offsets;
  offsets.assign(graph.nodes + 1, 0);
  for_each_edge([&](std::int64_t user, std::int64_t item, std::int64_t) {
    if (user < 0 || user >= users || item < users || item >= graph.nodes) {
      throw DataError(
          "graph: edge ({}, {}) does not join a user and an item of {} users and {} items", user,
          item, users, items);
    }
    ++offsets[user + 1];
  });
  for (std::int64_t user = 0; user < users; ++user) offsets[user + 1] += offsets[user];
  graph.col.resize(2 * offsets[users]);
  graph.group.resize(2 * offsets[users]);

  // The users' rows, repeated edges removed and the gaps closed.
  std::vector<std::int64_t> ends(offsets.begin(), offsets.end());
  for_each_edge([&](std::int64_t user, std::int64_t item, std::int64_t row) {
    const std::int64_t e = ends[user]++;
    graph.col[e] = static_cast<std::int32_t>(item);
    graph.group[e] = group_of(user, item, row);
  });
  sort_rows(graph, offsets, 0, users, /*unique=*/true, ends);
  std::int64_t edges = 0;
  for (std::int64_t user = 0; user < users; ++user) {
    const std::int64_t begin = offsets[user];
    offsets[user] = edges;
    for (std::int64_t e = begin; e < ends[user]; ++e, ++edges) {
      graph.col[edges] = graph.col[e];
      graph.group[edges] = graph.group[e];
    }
  }
  offsets[users] = edges;
  graph.col.resize(2 * edges);
  graph.group.resize(2 * edges);

  // The items' rows, transposed.
  for (std::int64_t e = 0; e < edges; ++e) ++offsets[graph.col[e] + 1];
  for (std::int64_t item = users; item < graph.nodes; ++item) offsets[item + 1] += offsets[item];
  std::copy(offsets.begin() + users, offsets.end(), ends.begin() + users);
  for (std::int64_t user = 0; user < users; ++user) {
    for (std::int64_t e = offsets[user]; e < offsets[user + 1]; ++e) {
      const std::int64_t to = ends[graph.col[e]]++;
      graph.col[to] = static_cast<std::int32_t>(user);
      graph.group[to] = graph.group[e];
    }
  }
  sort_rows(graph, offsets, users, graph.nodes, /*unique=*/false, ends);
  return graph;
}

}  // namespace

BipartiteGraph build_graph(std::int64_t users, std::int64_t items,
                           const std::vector<BipartiteGraph::Edge>& edges) {
  return build(
      users, items,
      [&](const auto& visit) {
        for (std::size_t row = 0; row < edges.size(); ++row) {
          visit(edges[row].user, edges[row].item, static_cast<std::int64_t>(row));
        }
      },
      [&](std::int64_t, std::int64_t, std::int64_t row) { return edges[row].group; });
}

BipartiteGraph build_training_graph(const Dataset& dataset, const CutRule& cut) {
  return build(
      dataset.users(), dataset.items(),
      [&](const auto& visit) {
        for (std::int64_t row = 0; row < dataset.rows(); ++row) {
          if (dataset.label()[row] == 0 || dataset.split(row) != Split::train) continue;
          visit(dataset.user_node(row), dataset.item_node(row), row);
        }
      },
      [&](std::int64_t user, std::int64_t item, std::int64_t row) {
        return cut.group(user, item - dataset.users(), dataset.time()[row]);
      });
}

}  // namespace graphlora
