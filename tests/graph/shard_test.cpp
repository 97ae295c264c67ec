#include "graph/shard.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "graph/planted.hpp"
#include "graph/shard_writer.hpp"

namespace graphlora {
namespace {

using ShardTest = test::LocalTest;
using ShardHostileTest = test::LocalTest;

using namespace test;

std::vector<std::int64_t> list(const at::Tensor& tensor) {
  const at::Tensor t = tensor.to(at::kLong).contiguous();
  return {t.const_data_ptr<std::int64_t>(), t.const_data_ptr<std::int64_t>() + t.numel()};
}

// All parts of a partition, read one after the other by this process.
struct Parts {
  Parts(const std::string& how, CutKind kind, int parts, const Planted& planted_as = {})
      : planted(planted_as),
        cut(planted.dataset(), kind, 5),
        graph(build_training_graph(planted.dataset(), cut)),
        division(divide(graph, how, parts)),
        owner(division.owner),
        hubs(division.hubs.begin(), division.hubs.end()) {
    const PartitionConfig config{.parts = parts, .cut = to_string(kind), .groups = 5};
    write_partition(planted.dataset(), config, cut, graph, division, directory());
    for (int part = 0; part < parts; ++part) {
      shards.emplace_back(directory(), part, planted.dataset());
    }
  }
  std::filesystem::path directory() const { return planted.directory() / "partition"; }
  std::vector<CutView> views() const {
    std::vector<CutView> views{cut.full_view()};
    for (int group = 0; group < cut.groups(); ++group) views.push_back(cut.training_view(group));
    return views;
  }

  PlantedDataset planted;
  CutRule cut;
  BipartiteGraph graph;
  Division division;
  std::vector<std::int32_t> owner;
  std::set<std::int64_t> hubs;
  std::vector<Shard> shards;
};

// Directed edges (destination, source) that a part adds up under a plan, as node ids.
std::multiset<std::pair<std::int64_t, std::int64_t>> edges_of(const Shard& shard,
                                                              const GraphPlan& plan) {
  const auto ids = list(at::cat({shard.owned(), shard.hubs(), shard.halo()}));
  std::multiset<std::pair<std::int64_t, std::int64_t>> edges;
  for (std::int64_t row = 0; row < plan.owned; ++row)
    plan.in_edges.each(row, [&](std::int32_t column) { edges.emplace(ids[row], ids[column]); });
  for (std::int64_t hub = 0; hub < plan.hubs; ++hub)
    plan.hub_in.each(hub,
                     [&](std::int32_t row) { edges.emplace(ids[plan.owned + hub], ids[row]); });
  return edges;
}

template <class Test>
void for_all_partitions(const Test& test) {
  for (const auto kind : {CutKind::fold, CutKind::window, CutKind::none}) {
    for (const int parts : {1, 2, 3, 4, 7}) {
      for (const auto& how : kAllDivisions) {
        SCOPED_TRACE(fmt::format("{} {} parts, {}", to_string(kind), parts, how));
        test(Parts(how, kind, parts));
      }
    }
  }
}

TEST_F(ShardTest, HoldsItsNodesInOrderAndExactlyTheForeignSources) {
  for_all_partitions([](const Parts& parts) {
    for (int part = 0; part < static_cast<int>(parts.shards.size()); ++part) {
      const Shard& shard = parts.shards[part];
      std::vector<std::int64_t> interior, boundary;
      std::map<std::int64_t, int> first_group;  // of foreign sources
      for (std::int64_t node = 0; node < parts.graph.nodes; ++node) {
        if (parts.owner[node] != part) continue;
        bool foreign = false;
        for (auto e = parts.graph.row_offsets[node]; e < parts.graph.row_offsets[node + 1]; ++e) {
          const auto source = parts.graph.col[e];
          if (parts.owner[source] == part || parts.hubs.count(node) || parts.hubs.count(source))
            continue;
          foreign = true;
          auto& first = first_group.emplace(source, parts.graph.group[e]).first->second;
          first = std::min<int>(first, parts.graph.group[e]);
        }
        (foreign ? boundary : interior).push_back(node);
      }
      EXPECT_EQ(shard.interior_count(), static_cast<std::int64_t>(interior.size()));
      interior.insert(interior.end(), boundary.begin(), boundary.end());
      EXPECT_EQ(list(shard.owned()), interior);

      std::vector<std::tuple<int, int, std::int64_t>> halo;  // owner, first group, node
      for (const auto& [node, group] : first_group)
        halo.emplace_back(parts.owner[node], group, node);
      std::sort(halo.begin(), halo.end());
      std::vector<std::int64_t> nodes, offsets(parts.shards.size() + 1, 0);
      for (const auto& [owner, group, node] : halo) {
        nodes.push_back(node);
        ++offsets[owner + 1];
      }
      for (std::size_t p = 0; p < parts.shards.size(); ++p) offsets[p + 1] += offsets[p];
      EXPECT_EQ(list(shard.halo()), nodes);
      EXPECT_EQ(list(shard.halo_offsets()), offsets);
    }
  });
}

TEST_F(ShardTest, PlansEqualTheAdjacencyWithoutTheDroppedEdges) {
  for_all_partitions([](const Parts& parts) {
    for (const CutView& view : parts.views()) {
      for (int part = 0; part < static_cast<int>(parts.shards.size()); ++part) {
        const auto plan = parts.shards[part].plan(view);
        std::multiset<std::pair<std::int64_t, std::int64_t>> expected;
        std::map<std::int64_t, int> degree;
        for (std::int64_t node = 0; node < parts.graph.nodes; ++node) {
          for (auto e = parts.graph.row_offsets[node]; e < parts.graph.row_offsets[node + 1]; ++e) {
            const int group = parts.graph.group[e];
            if (group >= view.drop_begin && group < view.drop_end) continue;
            // A hub's edges are worked on where its users are.
            const auto worker = parts.hubs.count(node) ? parts.graph.col[e] : node;
            if (parts.owner[worker] == part) expected.emplace(node, parts.graph.col[e]);
            ++degree[node];
          }
        }
        EXPECT_EQ(edges_of(parts.shards[part], *plan), expected);
        EXPECT_EQ(plan->entries, static_cast<std::int64_t>(expected.size()));
        const auto owned = list(parts.shards[part].owned()), degrees = list(plan->degree_n.cpu());
        for (std::size_t row = 0; row < owned.size(); ++row)
          EXPECT_EQ(degrees[row], degree[owned[row]]);
      }
    }
  });
}

TEST_F(ShardTest, WhatIsSentIsWhatIsExpected) {
  for_all_partitions([](const Parts& parts) {
    const int count = static_cast<int>(parts.shards.size());
    for (const CutView& view : parts.views()) {
      for (int from = 0; from < count; ++from) {
        const auto sender = parts.shards[from].plan(view);
        const at::Tensor sent = parts.shards[from].owned().index_select(0, sender->send_rows.cpu());
        std::int64_t begin = 0;
        for (int to = 0; to < count; ++to) {
          const auto receiver = parts.shards[to].plan(view);
          ASSERT_EQ(sender->send_counts[to], receiver->receive_counts[from]);
          const at::Tensor expected =
              parts.shards[to].halo().index_select(0, receiver->receive_rows.cpu());
          std::int64_t place = 0;
          for (int other = 0; other < from; ++other) place += receiver->receive_counts[other];
          EXPECT_TRUE(at::equal(sent.narrow(0, begin, sender->send_counts[to]),
                                expected.narrow(0, place, sender->send_counts[to])));
          begin += sender->send_counts[to];
        }
      }
    }
  });
}

TEST_F(ShardTest, NoBatchSeesTheEdgeOfARowOfItsGroup) {
  for_all_partitions([](const Parts& parts) {
    if (parts.cut.kind() == CutKind::none) return;
    const Dataset& dataset = parts.planted.dataset();
    std::vector<std::set<std::pair<std::int64_t, std::int64_t>>> seen(parts.cut.groups());
    for (int group = 0; group < parts.cut.groups(); ++group) {
      for (const Shard& shard : parts.shards) {
        const auto edges = edges_of(shard, *shard.plan(parts.cut.training_view(group)));
        seen[group].insert(edges.begin(), edges.end());
      }
    }
    std::int64_t liked = 0;
    for (const auto row : dataset.rows_of(Split::train)) {
      const int group =
          parts.cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row]);
      const auto user = dataset.user_node(row), item = dataset.item_node(row);
      EXPECT_EQ(seen[group].count({user, item}), 0u);
      EXPECT_EQ(seen[group].count({item, user}), 0u);
      liked += dataset.label()[row];
      if (parts.cut.kind() != CutKind::window) continue;
      // Nor anything as late as the window begins: all edges it sees are older.
      for (const auto other : dataset.rows_of(Split::train)) {
        if (dataset.user()[other] != dataset.user()[row] || dataset.label()[other] == 0) continue;
        if (dataset.time()[other] < dataset.time()[row]) continue;
        EXPECT_EQ(seen[group].count({user, dataset.item_node(other)}), 0u);
      }
    }
    EXPECT_GT(liked, 100);
  });
}

TEST_F(ShardTest, ValidAndTestSeeAllTrainingPositives) {
  const Parts parts("metis", CutKind::fold, 3);
  std::int64_t entries = 0;
  for (const Shard& shard : parts.shards) entries += shard.plan(parts.cut.full_view())->entries;
  EXPECT_EQ(entries, 2 * parts.graph.edges());
}

TEST_F(ShardTest, PlansAreMadeOnceAndViewsAreChecked) {
  const Parts parts("metis", CutKind::fold, 2);
  const Shard& shard = parts.shards[0];
  EXPECT_EQ(shard.plan({2, 3}), shard.plan({2, 3}));
  EXPECT_NE(shard.plan({2, 3}), shard.plan({1, 2}));
  for (const CutView view : {CutView{-1, 0}, CutView{3, 2}, CutView{0, 6}}) {
    EXPECT_THROW(shard.plan(view), ConfigError);
  }
}

// ---- hostile files -----------------------------------------------------------------------------

using Tensors = std::map<std::string, at::Tensor>;

using Metadata = std::map<std::string, std::string>;

// Changes a copy of part 0 and expects an error that names the file, with the dataset and without.
void expect_refused(const Parts& parts, const std::string& what,
                    const std::function<void(Tensors&)>& change,
                    const std::function<void(Metadata&)>& change_metadata = {}) {
  const auto path = parts.directory() / shard_file_name(0);
  const std::string good = read_file(path);
  Metadata metadata;
  Tensors tensors;
  {
    const SafetensorsReader reader(path);
    metadata = reader.metadata();
    for (const auto& [name, entry] : reader.entries()) tensors[name] = reader.tensor(name).clone();
  }
  if (change) change(tensors);
  if (change_metadata) change_metadata(metadata);
  write_safetensors(path, {tensors.begin(), tensors.end()}, metadata);
  try {
    const Shard shard(parts.directory(), 0, parts.planted.dataset());
    ADD_FAILURE() << what << ": was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data) << what;
    EXPECT_NE(std::string(error.what()).find("part-00000.safetensors"), std::string::npos)
        << what << ": " << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << what;
  }
  EXPECT_THROW(Shard(parts.directory(), 0), Error) << what;
  write_file(path, good);
}

template <class T>
std::function<void(Tensors&)> set(const std::string& name, std::int64_t at, T value) {
  return [=](Tensors& tensors) {
    auto& tensor = tensors.at(name);
    tensor.mutable_data_ptr<T>()[at < 0 ? tensor.numel() + at : at] = value;
  };
}

TEST_F(ShardHostileTest, ChangedTensorsAreRefused) {
  const Parts parts("metis", CutKind::fold, 3);
  const auto i64 = [](std::int64_t v) { return v; };
  const std::vector<std::pair<const char*, std::function<void(Tensors&)>>> changes{
      {"owned id too large", set("owned", 0, i64(1) << 40)},
      {"owned id negative", set("owned", 0, i64(-1))},
      {"owned id twice", [](Tensors& t) { t["owned"][1] = t["owned"][0]; }},
      {"halo id too large", set("halo", 0, i64(1000000))},
      {"halo id negative", set("halo", -1, i64(-5))},
      {"halo id owned", [](Tensors& t) { t["halo"][0] = t["owned"][0]; }},
      {"halo order", [](Tensors& t) { t["halo"] = t["halo"].flip(0).contiguous(); }},
      {"halo offsets descend", set("halo_offsets", 1, i64(1) << 50)},
      {"halo offsets negative", set("halo_offsets", 1, i64(-1))},
      {"halo offsets not from 0", set("halo_offsets", 0, i64(1))},
      {"halo offsets too short", set("halo_offsets", -1, i64(2))},
      {"halo of its own", [](Tensors& t) { t["halo_offsets"][1] = t["halo_offsets"][2].clone(); }},
      {"row offsets beyond col", set("row_offsets", -1, i64(1) << 60)},
      {"row offsets negative", set("row_offsets", 3, i64(-2))},
      {"row offsets descend", set("row_offsets", 2, i64(1) << 33)},
      {"row offsets with a gap", [](Tensors& t) { t["row_offsets"][6] += 1; }},
      {"column too large", set("col", 0, std::int32_t{1 << 30})},
      {"column negative", set("col", 0, std::int32_t{-1})},
      {"column other", [](Tensors& t) { t["col"][0] += 1; }},
      {"first group too late",
       [](Tensors& t) { t["halo_first_group"].mutable_data_ptr<std::uint16_t>()[0] += 1; }},
      {"first group too large", set("halo_first_group", -1, std::uint16_t{65535})},
      {"send rows too large", set("send_rows", 0, i64(1) << 40)},
      {"send rows negative", set("send_rows", 0, i64(-1))},
      {"send rows swapped",
       [](Tensors& t) { t["send_rows"] = t["send_rows"].flip(0).contiguous(); }},
      {"send row missing",
       [](Tensors& t) {
         const auto n = t["send_rows"].size(0) - 1;
         t["send_rows"] = t["send_rows"].narrow(0, 0, n).contiguous();
         t["send_first_group"] = t["send_first_group"].narrow(0, 0, n).contiguous();
         t["send_offsets"][3] -= 1;
       }},
      {"send first group",
       [](Tensors& t) { t["send_first_group"].mutable_data_ptr<std::uint16_t>()[0] ^= 7; }},
      {"send offsets moved", [](Tensors& t) { t["send_offsets"][2] -= 1; }},
      {"send offsets too large", set("send_offsets", -1, i64(1) << 62)},
      {"owned cut off", [](Tensors& t) { t["owned"] = t["owned"].narrow(0, 0, 3).contiguous(); }},
      {"halo cut off", [](Tensors& t) { t["halo"] = t["halo"].narrow(0, 0, 3).contiguous(); }},
      {"col cut off", [](Tensors& t) { t["col"] = t["col"].narrow(0, 0, 3).contiguous(); }},
      {"everything empty",
       [](Tensors& t) {
         for (auto& [name, tensor] : t) tensor = tensor.narrow(0, 0, 0).contiguous();
       }},
      {"a tensor missing", [](Tensors& t) { t.erase("col"); }},
      {"col of another type", [](Tensors& t) { t["col"] = t["col"].to(at::kLong); }},
      {"owned of another type", [](Tensors& t) { t["owned"] = t["owned"].to(at::kDouble); }},
      {"owned of two dimensions", [](Tensors& t) { t["owned"] = t["owned"].unsqueeze(0); }},
  };
  for (const auto& [what, change] : changes) expect_refused(parts, what, change);
  for (const char* key : {"format_version", "partition_id", "part", "parts", "groups"}) {
    expect_refused(parts, key, {}, [&](Metadata& metadata) { metadata[key] = "7"; });
    expect_refused(parts, key, {}, [&](Metadata& metadata) { metadata.erase(key); });
  }
  EXPECT_NO_THROW(Shard(parts.directory(), 0, parts.planted.dataset()));
  EXPECT_EQ(Shard(parts.directory(), 0).parts(), 3);
}

TEST_F(ShardHostileTest, ChangedHubsAreRefused) {
  const Parts parts("metis, hubs", CutKind::fold, 3);
  const auto i64 = [](std::int64_t v) { return v; };
  const std::vector<std::pair<const char*, std::function<void(Tensors&)>>> changes{
      {"hub id too large", set("hubs", 0, i64(1) << 40)},
      {"hub id negative", set("hubs", -1, i64(-1))},
      {"hub id twice", [](Tensors& t) { t["hubs"][1] = t["hubs"][0]; }},
      {"hub offsets descend", set("hub_offsets", 1, i64(1) << 50)},
      {"hub offsets too short", set("hub_offsets", -1, i64(1))},
      {"hubs of another part", [](Tensors& t) { t["hub_offsets"].fill_(5)[0] = 0; }},
      {"hub row offsets beyond", set("hub_row_offsets", -1, i64(1) << 60)},
      {"hub row offsets descend", set("hub_row_offsets", 2, i64(1) << 33)},
      {"hub column too large", set("hub_col", 0, std::int32_t{1 << 30})},
      {"hub column negative", set("hub_col", 0, std::int32_t{-1})},
      {"hub column missing",
       [](Tensors& t) {
         t["hub_col"] = t["hub_col"].narrow(0, 0, t["hub_col"].numel() - 1).contiguous();
       }},
      {"hub column other",
       [](Tensors& t) {
         auto* col = t["hub_col"].mutable_data_ptr<std::int32_t>();
         col[0] = col[0] == 0 ? 1 : 0;
       }},
      {"hub degree too small", set("hub_degree", 0, std::int32_t{-1})},
      {"hub degree too large", [](Tensors& t) { t["hub_degree"].fill_(2147483647); }},
      {"no hubs at all",
       [](Tensors& t) {
         for (const char* name : {"hubs", "hub_row_offsets", "hub_col", "hub_degree"})
           t[name] = t[name].narrow(0, 0, 0).contiguous();
         t["hub_offsets"].zero_();
       }},
  };
  for (const auto& [what, change] : changes) expect_refused(parts, what, change);
  EXPECT_NO_THROW(Shard(parts.directory(), 0, parts.planted.dataset()));
}

TEST_F(ShardHostileTest, TruncatedFilesAreRefused) {
  const Parts parts("metis", CutKind::fold, 2);
  const auto path = parts.directory() / shard_file_name(1);
  const std::string good = read_file(path);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, good.size() / 2, good.size() - 1}) {
    write_file(path, good.substr(0, size));
    EXPECT_THROW(Shard(parts.directory(), 1, parts.planted.dataset()), DataError) << size;
  }
  std::filesystem::remove(path);
  EXPECT_THROW(Shard(parts.directory(), 1, parts.planted.dataset()), DataError);
}

TEST_F(ShardHostileTest, RandomDamageNeverCrashes) {
  const Parts parts("metis", CutKind::window, 2);
  const auto path = parts.directory() / shard_file_name(0);
  const std::string good = read_file(path);
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 200; ++round) {
    std::string bad = good;
    for (int k = 0; k < 3; ++k) bad[random() % bad.size()] = static_cast<char>(random());
    std::ofstream(path, std::ios::binary) << bad;
    try {
      const Shard shard(parts.directory(), 0, parts.planted.dataset());
      for (const CutView& view : parts.views()) shard.plan(view);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      ++refused;
    }
  }
  EXPECT_GT(refused, 150);
}

TEST_F(ShardHostileTest, OtherDatasetOrPartitionIsRefused) {
  const Parts parts("metis", CutKind::fold, 2), other("random", CutKind::fold, 2);
  const PlantedDataset stranger(Planted{.seed = 9});
  EXPECT_THROW(Shard(parts.directory(), 0, stranger.dataset()), DataError);
  EXPECT_THROW(Shard(parts.directory(), 2, parts.planted.dataset()), DataError);
  EXPECT_THROW(Shard(parts.directory() / "none", 0, parts.planted.dataset()), DataError);
  // A shard of another partition of the same data set, and of another part.
  using std::filesystem::copy_options;
  std::filesystem::copy(other.directory() / shard_file_name(0),
                        parts.directory() / shard_file_name(0), copy_options::overwrite_existing);
  EXPECT_THROW(Shard(parts.directory(), 0, parts.planted.dataset()), DataError);
  std::filesystem::copy(parts.directory() / shard_file_name(1),
                        parts.directory() / shard_file_name(0), copy_options::overwrite_existing);
  EXPECT_THROW(Shard(parts.directory(), 0, parts.planted.dataset()), DataError);
}

TEST_F(ShardHostileTest, DamagedDescriptionIsRefused) {
  const Parts parts("metis", CutKind::fold, 2);
  const auto path = parts.directory() / "partition.json";
  const nlohmann::json good = read_json(path);
  const std::vector<std::pair<const char*, nlohmann::json>> changes{
      {"format_version", 1},
      {"format_version", "2"},
      {"dataset_fingerprint", "abc"},
      {"dataset_fingerprint", 1},
      {"nodes", -1},
      {"nodes", 1e30},
      {"nodes", "many"},
      {"parts", 0},
      {"parts", -2},
      {"parts", 1000000},
      {"parts", nullptr},
      {"partition_id", 5},
      {"partition_id", "0"},
      {"cut", nlohmann::json()},
      {"cut", {{"kind", "fold"}, {"groups", 9}}},
  };
  for (const auto& [key, value] : changes) {
    nlohmann::json bad = good;
    bad[key] = value;
    write_json(path, bad);
    EXPECT_THROW(Shard(parts.directory(), 0, parts.planted.dataset()), DataError) << key << value;
    bad.erase(key);
    write_json(path, bad);
    EXPECT_THROW(Shard(parts.directory(), 0, parts.planted.dataset()), DataError) << "no " << key;
  }
  write_file(path, "{\"parts\":");
  EXPECT_THROW(Shard(parts.directory(), 0, parts.planted.dataset()), DataError);
}

}  // namespace
}  // namespace graphlora
