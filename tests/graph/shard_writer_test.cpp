// The files' bytes against the graph they were written from, without the program's reader.
#include "graph/shard_writer.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "graph/planted.hpp"

namespace graphlora {
namespace {

using ShardWriterTest = test::LocalTest;

using namespace test;

std::vector<std::int64_t> list(const SafetensorsReader& file, const char* name,
                               at::ScalarType dtype) {
  const at::Tensor stored = file.tensor(name);
  EXPECT_EQ(stored.scalar_type(), dtype) << name;
  EXPECT_EQ(stored.dim(), 1) << name;
  const at::Tensor t = stored.to(at::kLong).contiguous();
  return {t.const_data_ptr<std::int64_t>(), t.const_data_ptr<std::int64_t>() + t.numel()};
}

// One part's file as plain lists.
struct Part {
  explicit Part(const std::filesystem::path& path) : file(path) {}
  SafetensorsReader file;
  std::vector<std::int64_t> i64(const char* name) const { return list(file, name, at::kLong); }
  std::vector<std::int64_t> i32(const char* name) const { return list(file, name, at::kInt); }
  std::vector<std::int64_t> u16(const char* name) const { return list(file, name, at::kUInt16); }
};

BipartiteGraph random_graph(int users, int items, int edges, int groups, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<BipartiteGraph::Edge> list;
  for (int e = 0; e < edges; ++e) {
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    list.push_back({below(users), users + std::min(below(items), below(items)),
                    static_cast<std::uint16_t>(below(groups))});
  }
  return build_graph(users, items, list);
}

std::vector<std::int64_t> items_of(const BipartiteGraph& graph, std::int64_t count, unsigned seed) {
  std::vector<std::int64_t> items;
  for (std::int64_t item = graph.users; item < graph.nodes; ++item) items.push_back(item);
  std::shuffle(items.begin(), items.end(), std::mt19937(seed));
  items.resize(count);
  return items;
}

using Edge = std::tuple<std::int64_t, std::int64_t, int>;  // destination, source, group

void expect_written_right(const BipartiteGraph& graph, const Division& division, int parts,
                          int groups) {
  const TemporaryDirectory directory;
  ShardWriter writer(graph, division, parts, groups);
  for (int p = 0; p < parts; ++p) writer.write(directory.path(), p, {});

  const std::set<std::int64_t> is_hub(division.hubs.begin(), division.hubs.end());
  std::vector<std::int64_t> hubs, hub_offsets{0};
  for (int p = 0; p < parts; ++p) {
    for (const std::int64_t hub : is_hub) {
      if (division.owner[hub] == p) hubs.push_back(hub);
    }
    hub_offsets.push_back(static_cast<std::int64_t>(hubs.size()));
  }
  const auto k = static_cast<std::int64_t>(hubs.size());
  std::vector<std::int64_t> hub_degree(k * groups, 0);
  for (std::int64_t hub = 0; hub < k; ++hub) {
    for (auto e = graph.row_offsets[hubs[hub]]; e < graph.row_offsets[hubs[hub] + 1]; ++e) {
      ++hub_degree[hub * groups + graph.group[e]];
    }
  }

  std::vector<Part> files;
  for (int p = 0; p < parts; ++p) files.emplace_back(directory / shard_file_name(p));
  std::multiset<Edge> edges;  // of all parts
  for (int p = 0; p < parts; ++p) {
    SCOPED_TRACE(fmt::format("part {}", p));
    const Part& file = files[p];
    EXPECT_EQ(file.i64("hubs"), hubs);
    EXPECT_EQ(file.i64("hub_offsets"), hub_offsets);
    EXPECT_EQ(file.i32("hub_degree"), hub_degree);
    const auto owned = file.i64("owned"), halo = file.i64("halo");
    const auto n = static_cast<std::int64_t>(owned.size());
    const auto row_offsets = file.i64("row_offsets"), col = file.i32("col");
    ASSERT_EQ(row_offsets.size(), owned.size() * (groups + 1));

    // Columns stand for owned nodes, hubs, halo; every hub's edge is read at its hub column.
    std::vector<std::int64_t> column_node = owned;
    column_node.insert(column_node.end(), hubs.begin(), hubs.end());
    column_node.insert(column_node.end(), halo.begin(), halo.end());
    std::set<std::int64_t> used;  // halo columns
    bool boundary_began = false;
    std::int64_t next = 0;
    for (std::int64_t row = 0; row < n; ++row) {
      EXPECT_EQ(division.owner[owned[row]], p);
      bool boundary = false;
      for (int group = 0; group < groups; ++group) {
        const auto begin = row_offsets[row * (groups + 1) + group];
        const auto end = row_offsets[row * (groups + 1) + group + 1];
        EXPECT_EQ(begin, next);
        next = end;
        for (auto e = begin; e < end; ++e) {
          ASSERT_LT(col[e], static_cast<std::int64_t>(column_node.size()));
          if (e > begin) {
            EXPECT_LT(col[e - 1], col[e]);
          }
          const std::int64_t source = column_node[col[e]];
          EXPECT_EQ(col[e] >= n && col[e] < n + k, is_hub.contains(source));
          if (col[e] >= n + k) {
            used.insert(source);
            boundary = true;
          }
          edges.emplace(owned[row], source, group);
        }
      }
      if (is_hub.contains(owned[row])) {
        EXPECT_EQ(row_offsets[row * (groups + 1)], row_offsets[row * (groups + 1) + groups]);
      }
      EXPECT_TRUE(boundary || !boundary_began) << "interior row behind boundary rows";
      boundary_began |= boundary;
    }
    EXPECT_EQ(next, static_cast<std::int64_t>(col.size()));

    // The halo is exactly the foreign sources used that are no hubs.
    EXPECT_EQ(std::set(halo.begin(), halo.end()), used);
    EXPECT_EQ(halo.size(), used.size());
    for (const std::int64_t node : halo) {
      EXPECT_NE(division.owner[node], p);
      EXPECT_FALSE(is_hub.contains(node));
    }

    // The hubs' edges from this part's own users.
    const auto hub_row_offsets = file.i64("hub_row_offsets"), hub_col = file.i32("hub_col");
    ASSERT_EQ(static_cast<std::int64_t>(hub_row_offsets.size()), k * (groups + 1));
    next = 0;
    for (std::int64_t hub = 0; hub < k; ++hub) {
      for (int group = 0; group < groups; ++group) {
        const auto begin = hub_row_offsets[hub * (groups + 1) + group];
        const auto end = hub_row_offsets[hub * (groups + 1) + group + 1];
        EXPECT_EQ(begin, next);
        next = end;
        for (auto e = begin; e < end; ++e) {
          ASSERT_TRUE(hub_col[e] >= 0 && hub_col[e] < n);
          if (e > begin) {
            EXPECT_LT(hub_col[e - 1], hub_col[e]);
          }
          edges.emplace(hubs[hub], owned[hub_col[e]], group);
        }
      }
    }
    EXPECT_EQ(next, static_cast<std::int64_t>(hub_col.size()));

    // What a part sends to another is what that one's halo lists from it, in the same order.
    const auto send_offsets = file.i64("send_offsets"), send_rows = file.i64("send_rows");
    for (int to = 0; to < parts; ++to) {
      std::vector<std::int64_t> sent;
      for (auto s = send_offsets[to]; s < send_offsets[to + 1]; ++s) {
        sent.push_back(owned[send_rows[s]]);
      }
      const auto there = files[to].i64("halo"), from = files[to].i64("halo_offsets");
      EXPECT_EQ(sent, std::vector(there.begin() + from[p], there.begin() + from[p + 1]));
    }
    EXPECT_EQ(file.u16("send_first_group").size(), send_rows.size());
    EXPECT_EQ(file.u16("halo_first_group").size(), halo.size());
  }

  std::multiset<Edge> expected;  // each entry of the graph once
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    for (auto e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      expected.emplace(node, graph.col[e], graph.group[e]);
    }
  }
  EXPECT_EQ(edges, expected);
}

TEST_F(ShardWriterTest, AllPartsTogetherHoldEveryEdgeOnceWhateverTheHubs) {
  for (const int groups : {1, 4}) {
    const BipartiteGraph graph = random_graph(40, 25, 300, groups, 3);
    for (const int parts : {1, 2, 3, 7}) {
      for (const auto& how : kDivisions) {
        for (const int hubs : {0, 1, 6, 25}) {
          SCOPED_TRACE(fmt::format("{} groups, {} parts, {}, {} hubs", groups, parts, how, hubs));
          expect_written_right(graph, {divide(graph, how, parts).owner, items_of(graph, hubs, 9)},
                               parts, groups);
        }
      }
    }
  }
}

TEST_F(ShardWriterTest, GraphsOfExtremeShape) {
  std::vector<BipartiteGraph::Edge> complete, star;
  for (int user = 0; user < 6; ++user) {
    star.push_back({user, 6, 1});
    for (int item = 6; item < 10; ++item) complete.push_back({user, item, 0});
  }
  for (const auto& edges : {complete, star, {{0, 6, 1}}, {}}) {
    const BipartiteGraph graph = build_graph(6, 4, edges);
    for (const int parts : {1, 3, 10}) {
      for (const int hubs : {0, 1, 4}) {
        SCOPED_TRACE(fmt::format("{} edges, {} parts, {} hubs", edges.size(), parts, hubs));
        expect_written_right(
            graph, {divide(graph, "random", parts).owner, items_of(graph, hubs, 1)}, parts, 2);
      }
    }
  }
}

TEST_F(ShardWriterTest, RefusesWhatIsNoDivision) {
  const BipartiteGraph graph = random_graph(10, 5, 30, 4, 1);
  const std::vector<std::int32_t> owner(15, 0);
  EXPECT_NO_THROW(ShardWriter(graph, {owner, {10, 14}}, 2, 4));
  for (const std::vector<std::int64_t>& hubs :
       {std::vector<std::int64_t>{9}, {-1}, {15}, {std::int64_t{1} << 40}, {11, 12, 11}}) {
    EXPECT_THROW(ShardWriter(graph, Division(owner, hubs), 2, 4), DataError);
  }
  EXPECT_THROW(ShardWriter(graph, std::vector<std::int32_t>(14, 0), 2, 4), DataError);
  EXPECT_THROW(ShardWriter(graph, std::vector<std::int32_t>(15, 2), 2, 4), DataError);
  EXPECT_THROW(ShardWriter(graph, owner, 2, 3), DataError);  // an edge of a group beyond
}

}  // namespace
}  // namespace graphlora
