#include "graph/partition.hpp"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <cstdio>
#include <fstream>
#include <limits>
#include <numeric>
#include <set>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "graph/hubs.hpp"
#include "graph/planted.hpp"
#include "graph/refine.hpp"
#include "graph/shard_writer.hpp"

namespace graphlora {
namespace {

using PartitionTest = test::LocalTest;

using namespace test;

BipartiteGraph planted_graph(int users, int items, int edges, int communities,
                             double inside = 0.9) {
  std::mt19937 random(5);
  std::vector<BipartiteGraph::Edge> list;
  for (int e = 0; e < edges; ++e) {
    const int user = static_cast<int>(random() % users);
    const int community = random() % 1000 < 1000 * inside
                              ? user % communities
                              : static_cast<int>(random() % communities);
    const int item = static_cast<int>(random() % (items / communities)) * communities + community;
    list.push_back({user, users + item, static_cast<std::uint16_t>(random() % 8)});
  }
  return build_graph(users, items, list);
}

std::int64_t sum(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}
std::int64_t most(const std::vector<std::int64_t>& values) {
  return *std::max_element(values.begin(), values.end());
}

// What is logged as long as it lives.
class CapturedLog {
 public:
  CapturedLog() : old_(spdlog::default_logger()) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("capture", sink));
  }
  ~CapturedLog() { spdlog::set_default_logger(old_); }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> old_;
};

TEST_F(PartitionTest, CostEqualsBruteForce) {
  const BipartiteGraph graph = planted_graph(60, 40, 500, 4);
  for (const int parts : {1, 2, 5}) {
    const auto owner = divide(graph, "random", parts).owner;
    const PartitionCost cost = partition_cost(graph, owner, parts);
    std::set<std::tuple<int, int, std::int64_t>> travels;  // from, to, node
    std::int64_t cut = 0;
    std::vector<std::int64_t> nodes(parts), users(parts), entries(parts);
    for (std::int64_t node = 0; node < graph.nodes; ++node) {
      ++nodes[owner[node]];
      users[owner[node]] += node < 60;
      for (auto e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
        ++entries[owner[node]];
        const int source = graph.col[e];
        if (owner[source] == owner[node]) continue;
        ++cut;
        travels.emplace(owner[source], owner[node], source);
      }
    }
    EXPECT_EQ(cost.edge_cut * 2, cut);
    EXPECT_EQ(cost.nodes, nodes);
    EXPECT_EQ(cost.users, users);
    EXPECT_EQ(cost.entries, entries);
    for (int from = 0; from < parts; ++from) {
      for (int to = 0; to < parts; ++to) {
        EXPECT_EQ(cost.rows[from][to], std::count_if(travels.begin(), travels.end(), [&](auto& t) {
                    return std::get<0>(t) == from && std::get<1>(t) == to;
                  }));
      }
    }
    for (int to = 0; to < parts; ++to) {
      std::int64_t received = 0;
      for (int from = 0; from < parts; ++from) received += cost.rows[from][to];
      EXPECT_EQ(cost.halo_rows[to], received);
    }
  }
}

TEST_F(PartitionTest, CostWithHubsEqualsBruteForce) {
  const BipartiteGraph graph = planted_graph(60, 40, 500, 4);
  const std::set<std::int64_t> hubs{61, 77, 99};
  const Division division(divide(graph, "random", 3).owner, {hubs.begin(), hubs.end()});
  const PartitionCost cost = partition_cost(graph, division, 3);
  std::set<std::tuple<int, int, std::int64_t>> travels;
  std::vector<std::int64_t> entries(3), halo(3);
  std::int64_t cut = 0;
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    for (auto e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      const std::int64_t source = graph.col[e];
      // A hub's entries are worked on where their users are.
      ++entries[division.owner[hubs.contains(node) ? source : node]];
      if (hubs.contains(node) || hubs.contains(source)) continue;
      if (division.owner[source] == division.owner[node]) continue;
      ++cut;
      if (travels.emplace(division.owner[source], division.owner[node], source).second) {
        ++halo[division.owner[node]];
      }
    }
  }
  EXPECT_EQ(cost.entries, entries);
  EXPECT_EQ(cost.halo_rows, halo);
  EXPECT_EQ(cost.edge_cut * 2, cut);
}

TEST_F(PartitionTest, MetisFindsCommunitiesAndBalancesNodesAndEdges) {
  const BipartiteGraph graph = planted_graph(2000, 1000, 24000, 8);
  for (const int parts : {2, 4, 8}) {
    const PartitionConfig config{.parts = parts};
    const PartitionCost metis = partition_cost(graph, partition_nodes(graph, config), parts);
    const PartitionCost random = partition_cost(graph, divide(graph, "random", parts), parts);
    EXPECT_EQ(sum(metis.nodes), graph.nodes);
    EXPECT_EQ(sum(metis.entries), 2 * graph.edges());
    EXPECT_LT(static_cast<double>(metis.edge_cut), 0.5 * static_cast<double>(random.edge_cut));
    EXPECT_LT(most(metis.halo_rows), most(random.halo_rows));
    EXPECT_LT(static_cast<double>(most(metis.nodes) * parts),
              1.051 * static_cast<double>(graph.nodes));
    EXPECT_LT(static_cast<double>(most(metis.entries) * parts),
              1.011 * 2 * static_cast<double>(graph.edges()));
  }
}

TEST_F(PartitionTest, SameSeedSameParts) {
  const BipartiteGraph graph = planted_graph(400, 200, 4000, 4);
  for (const char* method : {"metis", "random"}) {
    const PartitionConfig config{.parts = 3, .method = method, .seed = 7};
    EXPECT_EQ(partition_nodes(graph, config).owner, partition_nodes(graph, config).owner) << method;
    PartitionConfig other = config;
    other.seed = 8;
    EXPECT_NE(partition_nodes(graph, config).owner, partition_nodes(graph, other).owner) << method;
  }
}

TEST_F(PartitionTest, NodesWithoutEdgesAreDealtEvenly) {
  const BipartiteGraph graph = build_graph(100, 50, {{0, 100, 0}, {1, 101, 0}});
  for (const char* method : {"metis", "random"}) {
    const PartitionConfig config{.parts = 4, .method = method};
    const PartitionCost cost = partition_cost(graph, partition_nodes(graph, config), 4);
    EXPECT_LE(most(cost.nodes), 38) << method;
  }
  const BipartiteGraph none = build_graph(5, 5, {});
  EXPECT_EQ(most(partition_cost(none, partition_nodes(none, {.parts = 5}), 5).nodes), 2);
}

TEST_F(PartitionTest, AsManyPartsAsNodesIsLegalMoreIsAnError) {
  const BipartiteGraph graph = planted_graph(6, 4, 15, 2);
  for (const char* method : {"metis", "random"}) {
    for (int parts = 1; parts <= 10; ++parts) {
      const auto owner = partition_nodes(graph, {.parts = parts, .method = method}).owner;
      EXPECT_EQ(sum(partition_cost(graph, owner, parts).nodes), 10);
    }
    EXPECT_THROW(partition_nodes(graph, {.parts = 11, .method = method}), ConfigError);
  }
  EXPECT_THROW(partition_nodes(graph, {.parts = 0}), ConfigError);
  const BipartiteGraph large = build_graph(kMaxParts, kMaxParts, {});
  EXPECT_NO_THROW(partition_nodes(large, {.parts = kMaxParts, .method = "random"}));
  EXPECT_THROW(partition_nodes(large, {.parts = kMaxParts + 1, .method = "random"}), ConfigError);
  EXPECT_THROW(partition_nodes(graph, {.parts = 2, .method = "metiss"}), ConfigError);
  EXPECT_THROW(partition_nodes(graph, {.parts = 2, .max_degree = -1}), ConfigError);
}

TEST_F(PartitionTest, MaxDegreeStillFindsCommunities) {
  const BipartiteGraph graph = planted_graph(2000, 1000, 24000, 4);
  const PartitionConfig config{.parts = 4, .max_degree = 4};
  const auto owner = partition_nodes(graph, config).owner;
  const PartitionCost thin = partition_cost(graph, owner, 4);
  const PartitionCost random = partition_cost(graph, divide(graph, "random", 4), 4);
  EXPECT_EQ(sum(thin.nodes), graph.nodes);
  EXPECT_LT(thin.edge_cut, random.edge_cut / 2);
  EXPECT_NE(owner, partition_nodes(graph, {.parts = 4}).owner);
}

// Halo rows and the hubs' exchange, over all parts.
std::int64_t rows_per_layer(const BipartiteGraph& graph, const Division& division, int parts) {
  return sum(partition_cost(graph, division, parts).halo_rows) +
         2 * parts * static_cast<std::int64_t>(division.hubs.size());
}

// Most users bought the first few items, the rest is in communities.
BipartiteGraph graph_with_hubs(int users, int items, int edges, int hubs) {
  std::mt19937 random(7);
  std::vector<BipartiteGraph::Edge> list;
  for (int e = 0; e < edges; ++e) {
    const int user = static_cast<int>(random() % users);
    const int item = random() % 3 == 0
                         ? static_cast<int>(random() % hubs)
                         : hubs + static_cast<int>(random() % ((items - hubs) / 4)) * 4 + user % 4;
    list.push_back({user, users + item, static_cast<std::uint16_t>(random() % 4)});
  }
  return build_graph(users, items, list);
}

TEST_F(PartitionTest, HubsAreTheItemsOfHighestDegreeAndDealtEvenly) {
  const BipartiteGraph graph = graph_with_hubs(900, 320, 9000, 20);
  for (const char* method : {"metis", "random"}) {
    const Division division = partition_nodes(graph, {.parts = 4, .method = method, .hubs = "20"});
    std::set<std::int64_t> expected;
    for (int hub = 0; hub < 20; ++hub) expected.insert(900 + hub);
    EXPECT_EQ(std::set(division.hubs.begin(), division.hubs.end()), expected);
    std::vector<int> hubs_of(4, 0);
    for (const std::int64_t hub : division.hubs) ++hubs_of[division.owner[hub]];
    if (method == std::string("metis")) {
      EXPECT_EQ(hubs_of, std::vector<int>(4, 5));
    }
    const PartitionCost cost = partition_cost(graph, division, 4);
    EXPECT_EQ(sum(cost.nodes), graph.nodes);
    EXPECT_EQ(sum(cost.entries), 2 * graph.edges());
    const Division plain = partition_nodes(graph, {.parts = 4, .method = method});
    EXPECT_LT(rows_per_layer(graph, division, 4), rows_per_layer(graph, plain, 4)) << method;
  }
}

TEST_F(PartitionTest, AnyNumberOfHubsUpToAllItems) {
  const BipartiteGraph graph = planted_graph(60, 40, 500, 4);
  for (const int parts : {1, 2, 5}) {
    for (const char* method : {"metis", "random"}) {
      for (const char* hubs : {"0", "1", "39", "40", "auto"}) {
        const Division division =
            partition_nodes(graph, {.parts = parts, .method = method, .hubs = hubs});
        const PartitionCost cost = partition_cost(graph, division, parts);
        EXPECT_EQ(sum(cost.nodes), 100);
        EXPECT_EQ(sum(cost.entries), 2 * graph.edges());
        if (hubs == std::string("40")) {
          EXPECT_EQ(sum(cost.halo_rows), 0);
          EXPECT_EQ(division.hubs.size(), 40u);
        }
      }
    }
  }
  for (const char* hubs : {"41", "-1", "", "auto ", "ten", "3.5", "99999999999999999999", " 1"}) {
    EXPECT_THROW(partition_nodes(graph, {.parts = 2, .hubs = hubs}), ConfigError) << hubs;
  }
}

TEST_F(PartitionTest, HaloByHubsEqualsTheCostOfEachNumber) {
  const BipartiteGraph graph = planted_graph(60, 40, 500, 4, 0.5);
  const auto items = items_by_degree(graph, 40);
  for (const int parts : {1, 2, 5}) {
    const Division division = divide(graph, "random", parts);
    const auto halo = halo_rows_by_hubs(graph, division.owner, parts, items);
    ASSERT_EQ(halo.size(), 41u);
    for (int hubs = 0; hubs <= 40; ++hubs) {
      const Division with(division.owner, {items.begin(), items.begin() + hubs});
      EXPECT_EQ(halo[hubs], sum(partition_cost(graph, with, parts).halo_rows)) << hubs;
    }
  }
}

TEST_F(PartitionTest, AutoTakesTheBestNumberOfHubsByItsOwnMeasure) {
  // A planted data set whose first items are bought by all communities.
  RawRatings raw;
  std::mt19937 random(3);
  for (int k = 0; k < 40000; ++k) {
    const int user = static_cast<int>(random() % 3000);
    const int item = random() % 3 == 0 ? static_cast<int>(random() % 40)
                                       : 40 + static_cast<int>(random() % 200) * 4 + user % 4;
    raw.add("u" + std::to_string(user), "i" + std::to_string(item), 5, k);
  }
  const TemporaryDirectory directory;
  write_dataset(directory / "dataset", std::move(raw), {});
  const Dataset dataset(directory / "dataset");
  for (const char* method : {"metis", "random"}) {
    const auto report = write_partition(dataset, {.parts = 4, .method = method, .hubs = "auto"});
    const auto& candidates = report.at("hubs").at("candidates");
    const std::int64_t hubs = report.at("hubs").at("count");
    ASSERT_GE(candidates.size(), 5u);
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    bool considered = false;
    for (const auto& candidate : candidates) {
      const std::int64_t rows = candidate.at("halo_rows"), exchange = candidate.at("exchange_rows");
      EXPECT_EQ(exchange, 2 * 4 * candidate.at("hubs").get<std::int64_t>());
      EXPECT_EQ(candidate.at("bytes_per_layer"), 32 * (rows + exchange));
      best = std::min(best, rows + exchange);
      considered |= candidate.at("hubs") == hubs;
    }
    EXPECT_TRUE(considered);
    EXPECT_GE(hubs, 32) << method;
    // What was predicted is what is written, but for what the last refinement saves.
    EXPECT_LE(sum(report.at("halo_rows")) + 8 * hubs, best);
    EXPECT_EQ(report.at("hubs").at("exchange_rows"), 8 * hubs);
    EXPECT_EQ(report.at("hubs").at("exchange_bytes_per_layer"), 32 * 8 * hubs);
    EXPECT_EQ(report.at("without_hubs").at("division"), "made without hubs");
    EXPECT_EQ(sum(report.at("without_hubs").at("halo_rows")), candidates[0].at("halo_rows"));
    EXPECT_LT(report.at("share_of_random_rows"), method == std::string("metis") ? 0.5 : 0.95);
    // The same number asked for gives the same measure; without hubs nothing is compared.
    const auto fixed =
        write_partition(dataset, {.parts = 4, .method = method, .hubs = std::to_string(hubs)});
    EXPECT_EQ(fixed.at("hubs").at("count"), hubs);
    EXPECT_EQ(fixed.at("without_hubs").at("division"), "this one");
    EXPECT_TRUE(fixed.at("hubs").at("candidates").empty());
    const auto none = write_partition(dataset, {.parts = 4, .method = method});
    EXPECT_TRUE(none.at("without_hubs").is_null());
    EXPECT_GT(none.at("share_of_random_rows"), report.at("share_of_random_rows"));
  }
}

TEST_F(PartitionTest, RefinementBalancesSavesHaloRowsAndLosesNothing) {
  const BipartiteGraph graph = planted_graph(2000, 1000, 24000, 4);
  for (const int hubs : {0, 10}) {
    for (const int parts : {1, 2, 7, 40}) {
      // Everything in the first part, a skewed shuffle, an even shuffle.
      for (const int skew : {0, 1, 2}) {
        Division division({}, items_by_degree(graph, hubs));
        std::mt19937 random(1);
        for (std::int64_t node = 0; node < graph.nodes; ++node) {
          const auto part = static_cast<std::int32_t>(random() % static_cast<unsigned>(parts));
          division.owner.push_back(skew == 0 ? 0 : skew == 1 && part % 2 == 1 ? 0 : part);
        }
        const Division before = division;
        refine_division(graph, parts, division);
        SCOPED_TRACE(fmt::format("{} hubs, {} parts, skew {}", hubs, parts, skew));
        EXPECT_EQ(division.hubs, before.hubs);
        for (const std::int64_t hub : division.hubs) {
          EXPECT_EQ(division.owner[hub], before.owner[hub]);
        }
        const PartitionCost cost = partition_cost(graph, division, parts);
        EXPECT_EQ(sum(cost.nodes), graph.nodes);
        EXPECT_EQ(sum(cost.entries), 2 * graph.edges());
        const double mean = 2.0 * static_cast<double>(graph.edges()) / parts;
        EXPECT_LE(static_cast<double>(most(cost.entries)), 1.01 * mean + 1);
        if (skew == 2) {
          EXPECT_LE(static_cast<double>(most(cost.nodes)),
                    1.05 * static_cast<double>(graph.nodes) / parts + 1);
          EXPECT_LE(sum(cost.halo_rows), sum(partition_cost(graph, before, parts).halo_rows));
        }
        Division again = before;
        refine_division(graph, parts, again);
        EXPECT_EQ(again.owner, division.owner);
      }
    }
  }
}

TEST_F(PartitionTest, RefinementEndsWhereNoBalanceIsPossible) {
  // One item has half of all work: no part can be near the mean.
  std::vector<BipartiteGraph::Edge> edges;
  for (int user = 0; user < 50; ++user) edges.push_back({user, 50, 0});
  const BipartiteGraph graph = build_graph(50, 3, edges);
  for (const int parts : {2, 10, 53}) {
    const Division division = partition_nodes(graph, {.parts = parts});
    const PartitionCost cost = partition_cost(graph, division, parts);
    EXPECT_EQ(sum(cost.nodes), 53);
    EXPECT_LE(most(cost.entries), 50 + 50 / parts + 5);
    // As a hub it weighs nothing.
    const Division with_hub = partition_nodes(graph, {.parts = parts, .hubs = "1"});
    const PartitionCost even = partition_cost(graph, with_hub, parts);
    EXPECT_EQ(sum(even.halo_rows), 0);
    EXPECT_LE(most(even.entries), 2 * ((50 + parts - 1) / parts));
  }
}

// Highest resident size since `reset`, of this process.
struct PeakMemory {
  static std::int64_t read(const char* key) {
    std::ifstream file("/proc/self/status");
    for (std::string word; file >> word;) {
      std::int64_t kib = 0;
      if (word == key && file >> kib) return kib * 1024;
    }
    return 0;
  }
  PeakMemory() { std::ofstream("/proc/self/clear_refs") << 5; }
  std::int64_t bytes() const { return read("VmHWM:"); }
};

TEST_F(PartitionTest, MemoryIsPredictedBeforeMetisRuns) {
  // The log's sentence, the memory that the report states and the kernel's measure.
  const BipartiteGraph graph = planted_graph(60000, 20000, 1000000, 50);
  const CapturedLog log;
  const PeakMemory peak;
  partition_nodes(graph, {.parts = 8});
  const auto measured = static_cast<double>(peak.bytes());
  const std::string text = log.text();
  const auto at = text.find("into 8 parts; ");
  ASSERT_NE(at, std::string::npos) << text;
  double own = 0, used = 0;
  ASSERT_EQ(
      std::sscanf(text.c_str() + at, "into 8 parts; %lf GiB of memory beside %lf GiB", &own, &used),
      2)
      << text;
  const double before = used * 1024 * 1024 * 1024, predicted = (own + used) * 1024 * 1024 * 1024;
  EXPECT_NEAR(predicted / measured, 1, 0.2);
  // METIS's own share of it within 30 %.
  EXPECT_NEAR((predicted - before) / (measured - before), 1, 0.3);
}

TEST_F(PartitionTest, OwnersAreChecked) {
  const BipartiteGraph graph = planted_graph(6, 4, 15, 2);
  EXPECT_THROW(partition_cost(graph, std::vector<std::int32_t>(9, 0), 2), DataError);
  EXPECT_THROW(partition_cost(graph, std::vector<std::int32_t>(10, 2), 2), DataError);
  EXPECT_THROW(partition_cost(graph, std::vector<std::int32_t>(10, -1), 2), DataError);
}

TEST_F(PartitionTest, DirectoryHoldsShardsAndTheReport) {
  const PlantedDataset planted({.users = 300, .items = 200, .interactions = 6000});
  const Dataset& dataset = planted.dataset();
  const PartitionConfig config{.parts = 3};
  const nlohmann::json report = write_partition(dataset, config);
  const auto directory = partition_directory(dataset, 3);
  EXPECT_EQ(directory, dataset.directory() / "partition-3");
  EXPECT_EQ(read_json(directory / "partition.json"), report);
  for (const char* name : {"part-00000.safetensors", "part-00001.safetensors",
                           "part-00002.safetensors", "order.safetensors"}) {
    EXPECT_TRUE(std::filesystem::exists(directory / name)) << name;
  }
  const auto files = std::distance(std::filesystem::directory_iterator(directory), {});
  EXPECT_EQ(files, 5);

  const BipartiteGraph graph = build_training_graph(dataset, CutRule(dataset, CutKind::window, 8));
  const PartitionCost cost = partition_cost(graph, partition_nodes(graph, config), 3);
  EXPECT_EQ(report.at("parts"), 3);
  EXPECT_EQ(report.at("nodes"), dataset.nodes());
  EXPECT_EQ(report.at("edges"), graph.edges());
  EXPECT_EQ(report.at("seed"), 1);
  EXPECT_EQ(report.at("edge_cut"), cost.edge_cut);
  EXPECT_GT(report.at("edge_cut_random"), cost.edge_cut);
  EXPECT_EQ(report.at("halo_rows"), cost.halo_rows);
  EXPECT_EQ(report.at("halo_rows_random").size(), 3u);
  EXPECT_EQ(report.at("users"), cost.users);
  EXPECT_EQ(sum(report.at("edges_per_part")), 2 * graph.edges());
  for (int from = 0; from < 3; ++from) {
    for (int to = 0; to < 3; ++to) {
      EXPECT_EQ(report.at("bytes_per_layer")[from][to], 32 * cost.rows[from][to]);
    }
  }
  EXPECT_GT(report.at("seconds"), 0);
  EXPECT_GT(report.at("peak_memory_bytes"), 1 << 20);
  EXPECT_GT(report.at("predicted_memory_bytes"), 1 << 20);
  double seconds = 0;
  for (const auto& [phase, taken] : report.at("seconds_per_phase").items()) {
    seconds += taken.get<double>();
  }
  EXPECT_NEAR(seconds, report.at("seconds"), 0.01);
  EXPECT_EQ(report.at("hubs").at("count"), 0);
  EXPECT_EQ(report.at("dataset_fingerprint"), dataset.fingerprint());
  EXPECT_EQ(report.at("options").at("cut"), "window");  // what auto means under a time split
}

TEST_F(PartitionTest, AutoCutFollowsTheSplit) {
  const PlantedDataset planted({.split = "user-time"});
  const auto report = write_partition(planted.dataset(), {.parts = 2});
  EXPECT_EQ(report.at("options").at("cut"), "fold");
  EXPECT_EQ(report.at("cut").at("groups"), 8);
}

TEST_F(PartitionTest, IsReusedOnlyForThisDatasetAndWhatWasAskedFor) {
  const PlantedDataset planted(Planted{}), other(Planted{.seed = 2});
  const Dataset& dataset = planted.dataset();
  const PartitionConfig config{.parts = 2};
  EXPECT_EQ(reason_to_partition(dataset, config, Reuse::any), "is missing");
  write_partition(dataset, config);
  struct Case {
    PartitionConfig config;
    Reuse needs;  ///< refused from this strictness on
    const char* reason;
  };
  for (const Case& c :
       {Case{{.parts = 2, .cut = "fold"}, Reuse::same_cut, "--graph.cut \"window\""},
        Case{{.parts = 2, .groups = 4}, Reuse::same_cut, "--graph.groups 8, now 4"},
        Case{{.parts = 2, .method = "random"}, Reuse::same_division, "--partition.method"},
        Case{{.parts = 2, .hubs = "auto"}, Reuse::same_division, "--partition.hubs \"0\""},
        Case{{.parts = 2, .max_degree = 5}, Reuse::same_division, "--partition.max-degree 0"}}) {
    for (const Reuse reuse : {Reuse::any, Reuse::same_cut, Reuse::same_division}) {
      const auto reason = reason_to_partition(dataset, c.config, reuse);
      EXPECT_EQ(reason.has_value(), reuse >= c.needs) << c.reason;
      if (reason) {
        EXPECT_NE(reason->find(c.reason), std::string::npos) << *reason;
      }
    }
  }
  // What auto means here; the seed alone is no reason.
  EXPECT_EQ(
      reason_to_partition(dataset, {.parts = 2, .cut = "window", .seed = 9}, Reuse::same_division),
      std::nullopt);
  EXPECT_EQ(reason_to_partition(dataset, {.parts = 3}, Reuse::any), "is missing");
  std::filesystem::copy(partition_directory(dataset, 2), partition_directory(other.dataset(), 2));
  EXPECT_EQ(reason_to_partition(other.dataset(), config, Reuse::any),
            "belongs to an older dataset");

  for (const char* text : {"", "{", "[]", "{}", R"({"format_version":2,"parts":2})", "\xff\xfe"}) {
    write_file(partition_directory(dataset, 2) / "partition.json", text);
    EXPECT_THROW(reason_to_partition(dataset, config, Reuse::any), DataError) << text;
  }
  std::filesystem::remove(partition_directory(dataset, 2) / "partition.json");
  EXPECT_THROW(reason_to_partition(dataset, config, Reuse::any), DataError);
}

TEST_F(PartitionTest, MorePartsThanNodesLeavesNothingBehind) {
  const PlantedDataset planted(Planted{});
  const auto nodes = planted.dataset().nodes();
  EXPECT_THROW(write_partition(planted.dataset(), {.parts = nodes + 1}), ConfigError);
  EXPECT_FALSE(
      std::filesystem::exists(partition_directory(planted.dataset(), static_cast<int>(nodes) + 1)));
}

TEST_F(PartitionTest, WarnsWhenMetisIsNoBetterThanRandom) {
  // Everyone bought the same item: balanced work means that its part imports all the others.
  RawRatings raw;
  for (int user = 0; user < 60; ++user) raw.add("u" + std::to_string(user), "i", 5, user);
  const TemporaryDirectory directory;
  PrepareConfig prepare;
  prepare.split.rule = "user-time";
  write_dataset(directory / "dataset", std::move(raw), prepare);
  const Dataset dataset(directory / "dataset");
  {
    const CapturedLog log;
    write_partition(dataset, {.parts = 2});
    EXPECT_NE(log.text().find("no smaller than a random partition's"), std::string::npos)
        << log.text();
  }
  const PlantedDataset planted({.users = 300, .items = 200, .interactions = 6000});
  const CapturedLog log;
  write_partition(planted.dataset(), {.parts = 2});
  EXPECT_EQ(log.text().find("no smaller"), std::string::npos) << log.text();
}

TEST(Partition, EnsureBuildsOnRankZeroWhatIsMissingOrCutOtherwise) {
  const SharedDirectory directory;
  if (world().rank() == 0) write_dataset(directory.path() / "dataset", planted_ratings({}), {});
  world().barrier();
  const Dataset dataset(directory.path() / "dataset");
  PartitionConfig config{.parts = world().size()};
  const auto json = partition_directory(dataset, world().size()) / "partition.json";
  const auto written = [&] {
    world().barrier();
    const auto time = std::filesystem::last_write_time(json);
    world().barrier();
    return time;
  };
  ensure_partition(job(), dataset, config, Reuse::same_cut);
  EXPECT_EQ(reason_to_partition(dataset, config, Reuse::same_division), std::nullopt);
  const auto first = written();
  ensure_partition(job(), dataset, config, Reuse::same_cut);
  EXPECT_EQ(written(), first);  // reused
  config.cut = "fold";
  ensure_partition(job(), dataset, config, Reuse::same_cut);
  EXPECT_NE(written(), first);
  EXPECT_EQ(reason_to_partition(dataset, config, Reuse::same_division), std::nullopt);

  config.parts = world().size() + 1;  // an error of rank 0 reaches every rank
  EXPECT_THROW(ensure_partition(job(), dataset, config, Reuse::same_cut), AgreedError);
}

}  // namespace
}  // namespace graphlora
