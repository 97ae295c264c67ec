// Small data sets with communities, prepared, partitioned and opened on every rank.
#pragma once
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/dataset_writer.hpp"
#include "data/split.hpp"
#include "graph/bipartite_graph.hpp"
#include "graph/partition.hpp"
#include "graph/shard.hpp"
#include "support/rank_main.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora::test {

/// For tests without communication: they run once, not on every rank of every rank count.
struct LocalTest : ::testing::Test {
  void SetUp() override {
    if (world().size() > 1) GTEST_SKIP() << "runs on one rank";
  }
};

struct Planted {
  int users = 60, items = 40, interactions = 600, communities = 4;
  int times = 300;      ///< distinct timestamps at most
  double inside = 0.9;  ///< share of interactions within the community
  std::string split = "time";
  unsigned seed = 1;
};

inline RawRatings planted_ratings(const Planted& planted) {
  std::mt19937 random(planted.seed);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  RawRatings raw;
  std::set<std::pair<int, int>> known;
  for (int k = 0; k < planted.interactions; ++k) {
    const int user = below(planted.users);
    const int community = below(1000) < 1000 * planted.inside ? user % planted.communities
                                                              : below(planted.communities);
    const int per_community = planted.items / planted.communities;
    // The lesser of two draws: some items are popular.
    const int item =
        std::min(below(per_community), below(per_community)) * planted.communities + community;
    if (!known.emplace(user, item).second) continue;
    raw.add(fmt::format("u{}", user), fmt::format("i{}", item), below(10) < 6 ? 5.0f : 2.0f,
            1000 + below(planted.times));
  }
  return raw;
}

/// The path of rank 0's temporary directory, on every rank. Collective.
class SharedDirectory {
 public:
  SharedDirectory() {
    std::string text;
    if (world().rank() == 0) text = own_.emplace().path().string();
    path_ = world().broadcast_text(std::move(text), 0, Traffic::control);
  }
  ~SharedDirectory() { world().barrier(); }
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::optional<TemporaryDirectory> own_;
  std::filesystem::path path_;
};

/// A planted data set, written by this process alone (each rank its own, all equal).
class PlantedDataset {
 public:
  explicit PlantedDataset(const Planted& planted)
      : PlantedDataset(planted_ratings(planted), {.rule = planted.split}) {}
  PlantedDataset(RawRatings raw, const SplitConfig& split) {
    PrepareConfig config;
    config.split = split;
    write_dataset(directory_ / "dataset", std::move(raw), config);
    dataset_.emplace(directory_ / "dataset");
  }
  const Dataset& dataset() const { return *dataset_; }
  std::filesystem::path directory() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
  std::optional<Dataset> dataset_;
};

/// How nodes are dealt to parts; the tests go through all of them.
inline const std::vector<std::string> kDivisions{"metis", "random", "one part empty",
                                                 "one part holds everything", "all boundary"};
inline const std::vector<std::string> kAllDivisions = [] {
  auto all = kDivisions;
  all.insert(all.end(), {"metis, hubs", "one part empty, hubs"});
  return all;
}();

/// A division as the name of a test's case, which may hold letters only.
inline std::string case_name(std::string division) {
  std::replace_if(
      division.begin(), division.end(), [](char c) { return c == ' ' || c == ','; }, '_');
  return division;
}

/// The `count` items with the most edges.
inline std::vector<std::int64_t> top_items(const BipartiteGraph& graph, std::int64_t count) {
  std::vector<std::int64_t> items;
  for (std::int64_t node = graph.users; node < graph.nodes; ++node) items.push_back(node);
  std::stable_sort(items.begin(), items.end(), [&](std::int64_t a, std::int64_t b) {
    return graph.degree(a) > graph.degree(b);
  });
  items.resize(std::min<std::size_t>(items.size(), static_cast<std::size_t>(count)));
  return items;
}

inline Division divide(const BipartiteGraph& graph, const std::string& how, int parts) {
  PartitionConfig config{.parts = parts, .method = how == "random" ? "random" : "metis"};
  Division division;
  if (how.starts_with("one part empty") && parts > 1) {
    config.parts = parts - 1;
    division = partition_nodes(graph, config);
    for (auto& part : division.owner) part += part >= parts / 2;  // the one in the middle is empty
  } else if (how == "one part holds everything") {
    division.owner.assign(graph.nodes, parts - 1);
  } else if (how == "all boundary" && parts > 1) {
    // No user has an item in its own part.
    const int user_parts = std::max(1, parts / 2);
    for (std::int64_t node = 0; node < graph.nodes; ++node) {
      division.owner.push_back(static_cast<std::int32_t>(
          node < graph.users ? node % user_parts : user_parts + node % (parts - user_parts)));
    }
  } else {
    division = partition_nodes(graph, config);
  }
  if (how.ends_with("hubs")) division.hubs = top_items(graph, 5);
  return division;
}

/// A planted graph on the ranks of the world. Collective.
class DistributedGraph {
 public:
  DistributedGraph(const std::string& how, CutKind kind, const Planted& planted = {},
                   int groups = 5)
      : planted_(planted) {
    open(kind, groups, [&] { return divide(graph_, how, world().size()); });
  }
  /// Given ratings, all of them for training, and a given division.
  DistributedGraph(RawRatings raw, const Division& division, CutKind kind, int groups)
      : planted_(std::move(raw), {.rule = "time", .valid = 0, .test = 0}) {
    open(kind, groups, [&] { return division; });
  }
  const Dataset& dataset() const { return planted_.dataset(); }
  const BipartiteGraph& graph() const { return graph_; }
  bool is_hub(std::int64_t node) const {
    const at::Tensor& hubs = shard_->hubs();
    return hubs.eq(node).any().item<bool>();
  }
  const Shard& shard() const { return *shard_; }
  const NodeMap& map() const { return *map_; }
  /// Views of all training groups and the full one.
  std::vector<CutView> views() const {
    std::vector<CutView> views{shard_->cut().full_view()};
    for (int group = 0; group < shard_->cut().groups(); ++group) {
      views.push_back(shard_->cut().training_view(group));
    }
    return views;
  }
  /// Adjacency of the whole graph under a view, f64 (N, N).
  at::Tensor dense(const CutView& view) const {
    at::Tensor a = at::zeros({graph_.nodes, graph_.nodes}, at::kDouble);
    auto* entries = a.mutable_data_ptr<double>();
    for (std::int64_t node = 0; node < graph_.nodes; ++node) {
      for (auto e = graph_.row_offsets[node]; e < graph_.row_offsets[node + 1]; ++e) {
        if (graph_.group[e] >= view.drop_begin && graph_.group[e] < view.drop_end) continue;
        entries[node * graph_.nodes + graph_.col[e]] = 1;
      }
    }
    return a;
  }
  /// Rows of a tensor over all nodes that this rank owns.
  at::Tensor own_rows(const at::Tensor& all) const { return all.index_select(0, shard_->owned()); }

 private:
  template <class Divide>
  void open(CutKind kind, int groups, const Divide& division) {
    const CutRule cut(dataset(), kind, groups);
    graph_ = build_training_graph(dataset(), cut);
    if (world().rank() == 0) {
      const PartitionConfig config{
          .parts = world().size(), .cut = to_string(kind), .groups = groups};
      write_partition(dataset(), config, cut, graph_, division(), directory_.path() / "partition");
    }
    world().barrier();
    shard_.emplace(directory_.path() / "partition", world().rank(), dataset());
    map_.emplace(world(), shard_->owned(), dataset().nodes());
  }

  SharedDirectory directory_;
  PlantedDataset planted_;
  BipartiteGraph graph_;
  std::optional<Shard> shard_;
  std::optional<NodeMap> map_;
};

/// The same random numbers on every rank.
inline at::Tensor random_tensor(std::vector<std::int64_t> sizes, std::uint64_t seed,
                                at::ScalarType dtype = at::kDouble) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  at::Tensor tensor = at::empty(sizes, at::kDouble);
  auto* values = tensor.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) values[i] = normal(random);
  return tensor.to(dtype);
}

/// Of tensors on any device.
inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  if (a.sizes() != b.sizes()) return INFINITY;
  if (a.numel() == 0) return 0;
  return (a.cpu().to(at::kDouble) - b.cpu().to(at::kDouble)).abs().max().item<double>();
}

/// Sum over ranks of a local scalar. Collective.
inline double sum_over_ranks(const at::Tensor& local) {
  const at::Tensor sum = local.detach().cpu().to(at::kDouble).reshape({1}).clone();
  world().all_reduce(sum, ReduceOp::sum, Traffic::control).wait();
  return sum.item<double>();
}

}  // namespace graphlora::test
