#include "graph/bipartite_graph.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "core/error.hpp"
#include "graph/planted.hpp"

namespace graphlora {
namespace {

using BipartiteGraphTest = test::LocalTest;

using Edge = BipartiteGraph::Edge;
using Row = std::vector<std::pair<int, int>>;  // (group, column)

Row row_of(const BipartiteGraph& graph, std::int64_t node) {
  Row row;
  for (auto e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
    row.emplace_back(graph.group[e], graph.col[e]);
  }
  return row;
}

// Rows by exhaustive search; of repeated edges the highest group counts.
std::vector<Row> brute_force(std::int64_t nodes, const std::vector<Edge>& edges) {
  std::map<std::pair<int, int>, int> group_of;
  for (const auto& edge : edges) {
    auto& group = group_of.emplace(std::pair(edge.user, edge.item), edge.group).first->second;
    group = std::max<int>(group, edge.group);
  }
  std::vector<Row> rows(nodes);
  for (const auto& [edge, group] : group_of) {
    rows[edge.first].emplace_back(group, edge.second);
    rows[edge.second].emplace_back(group, edge.first);
  }
  for (auto& row : rows) std::sort(row.begin(), row.end());
  return rows;
}

TEST_F(BipartiteGraphTest, EqualsBruteForceWithRepeatedEdges) {
  std::mt19937 random(1);
  for (const int edges_asked : {0, 1, 5, 400}) {
    std::vector<Edge> edges;
    for (int e = 0; e < edges_asked; ++e) {
      edges.push_back({static_cast<std::int32_t>(random() % 20),
                       static_cast<std::int32_t>(20 + random() % 15),
                       static_cast<std::uint16_t>(random() % 3 == 0 ? 65534 : random() % 8)});
    }
    const BipartiteGraph graph = build_graph(20, 15, edges);
    const auto expected = brute_force(35, edges);
    ASSERT_EQ(graph.nodes, 35);
    ASSERT_EQ(graph.row_offsets.size(), 36u);
    ASSERT_EQ(graph.row_offsets.back(), static_cast<std::int64_t>(graph.col.size()));
    for (std::int64_t node = 0; node < 35; ++node) EXPECT_EQ(row_of(graph, node), expected[node]);
  }
}

TEST_F(BipartiteGraphTest, HoldsLikedTrainingRowsOnly) {
  const test::PlantedDataset planted(test::Planted{.users = 40, .items = 25, .interactions = 400});
  const Dataset& dataset = planted.dataset();
  const CutRule cut(dataset, CutKind::window, 4);
  const BipartiteGraph graph = build_training_graph(dataset, cut);
  std::vector<Edge> edges;
  for (std::int64_t row = 0; row < dataset.rows(); ++row) {
    if (dataset.split(row) != Split::train || dataset.label()[row] == 0) continue;
    edges.push_back({static_cast<std::int32_t>(dataset.user()[row]),
                     static_cast<std::int32_t>(dataset.users() + dataset.item()[row]),
                     cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row])});
  }
  const auto expected = brute_force(dataset.nodes(), edges);
  EXPECT_EQ(graph.edges(), static_cast<std::int64_t>(edges.size()));
  EXPECT_GT(graph.edges(), 100);
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    EXPECT_EQ(row_of(graph, node), expected[node]);
  }
}

TEST_F(BipartiteGraphTest, RefusesEdgesThatDoNotJoinUserAndItem) {
  for (const Edge edge :
       {Edge{-1, 3, 0}, Edge{2, 3, 0}, Edge{0, 1, 0}, Edge{0, 5, 0}, Edge{3, 0, 0}}) {
    EXPECT_THROW(build_graph(2, 3, {edge}), DataError);
  }
}

TEST_F(BipartiteGraphTest, RefusesMoreNodesThanIdsHold) {
  EXPECT_THROW(build_graph(std::int64_t{1} << 31, 1, {}), DataError);
  EXPECT_THROW(build_graph(-1, 1, {}), DataError);
}

}  // namespace
}  // namespace graphlora
