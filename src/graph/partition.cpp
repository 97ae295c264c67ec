#include "graph/partition.hpp"

#include <metis.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/rng.hpp"
#include "graph/anchor_shares.hpp"
#include "graph/shard_writer.hpp"
#include "graph/training_order.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kMarker = "partition.json";
constexpr std::int64_t kBytesPerRow = 32;  // of the report: 8 numbers of 4 bytes, LightGCN at r = 8
constexpr double kMetisBytesPerEntry = 45;  // measured, above the CSR
constexpr double kImbalance = 1.05;         // asked of METIS, for nodes and for edges
constexpr double kImbalanceToReport = 1.2;  // of edges, where one warns
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

std::vector<std::int32_t> random_owner(std::int64_t nodes, std::int64_t parts, std::int64_t seed) {
  std::vector<std::int32_t> order(nodes), owner(nodes);
  std::iota(order.begin(), order.end(), 0);
  SplitMix64 random(hash_name(static_cast<std::uint64_t>(seed), "partition.random"));
  for (std::int64_t i = nodes - 1; i > 0; --i) {
    std::swap(order[i], order[random.below(static_cast<std::uint64_t>(i) + 1)]);
  }
  for (std::int64_t i = 0; i < nodes; ++i) owner[order[i]] = static_cast<std::int32_t>(i % parts);
  return owner;
}

// Deals `nodes` one by one to the part with fewest nodes so far, lowest number first.
void deal(const std::vector<std::int32_t>& nodes, std::int64_t parts,
          std::vector<std::int32_t>& owner) {
  std::vector<std::pair<std::int64_t, std::int32_t>> heap;  // (nodes, part), least on top
  std::vector<std::int64_t> count(parts, 0);
  for (const std::int32_t part : owner) {
    if (part >= 0) ++count[part];
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    heap.emplace_back(count[part], static_cast<std::int32_t>(part));
  }
  const std::greater<> least_first;
  std::make_heap(heap.begin(), heap.end(), least_first);
  for (const std::int32_t node : nodes) {
    std::pop_heap(heap.begin(), heap.end(), least_first);
    owner[node] = heap.back().second;
    ++heap.back().first;
    std::push_heap(heap.begin(), heap.end(), least_first);
  }
}

// Keeps, of each user's edges, the `max_degree` whose items have the lowest degree (ties: lowest
// id).
BipartiteGraph thin(const BipartiteGraph& graph, std::int64_t max_degree) {
  std::vector<BipartiteGraph::Edge> edges;
  std::vector<std::int32_t> items;
  for (std::int64_t user = 0; user < graph.users; ++user) {
    items.assign(graph.col.begin() + graph.row_offsets[user],
                 graph.col.begin() + graph.row_offsets[user + 1]);
    const auto less_popular = [&](std::int32_t a, std::int32_t b) {
      return std::pair(graph.degree(a), a) < std::pair(graph.degree(b), b);
    };
    const auto keep = std::min<std::int64_t>(max_degree, static_cast<std::int64_t>(items.size()));
    std::partial_sort(items.begin(), items.begin() + keep, items.end(), less_popular);
    for (std::int64_t k = 0; k < keep; ++k) {
      edges.push_back({static_cast<std::int32_t>(user), items[k], 0});
    }
  }
  return build_graph(graph.users, graph.nodes - graph.users, edges);
}

// What the kernel could hand out, its caches included; infinite where it does not say.
double available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key, rest; file >> key && std::getline(file, rest);) {
    if (key == "MemAvailable:") return std::stod(rest) * 1024;
  }
  return std::numeric_limits<double>::infinity();
}

// `visible`: the graph that METIS sees; `graph`: the one whose work it balances.
std::vector<std::int32_t> metis_owner(const BipartiteGraph& graph, const BipartiteGraph& visible,
                                      std::int64_t parts, std::int64_t seed) {
  std::vector<std::int32_t> owner(graph.nodes, -1), connected, isolated;
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    (visible.degree(node) > 0 ? connected : isolated).push_back(static_cast<std::int32_t>(node));
  }
  const auto count = static_cast<std::int64_t>(connected.size());
  if (count <= parts) {  // nothing to optimize, and METIS wants more vertices than parts
    deal(connected, parts, owner);
    deal(isolated, parts, owner);
    return owner;
  }
  const auto entries = static_cast<std::int64_t>(visible.col.size());
  constexpr std::int64_t kIndexLimit = std::numeric_limits<idx_t>::max();
  if (entries > kIndexLimit || static_cast<std::int64_t>(graph.col.size()) > kIndexLimit) {
    throw ConfigError(
        "partition: {} adjacency entries are beyond this METIS build's {}-bit indices; give "
        "--partition.max-degree so that users times it stays below {}, use --partition.method "
        "random, or build with a METIS of 64-bit idx_t",
        std::max(entries, static_cast<std::int64_t>(graph.col.size())), 8 * sizeof(idx_t),
        kIndexLimit / 2);
  }
  const double csr = static_cast<double>(sizeof(idx_t)) * static_cast<double>(entries + 4 * count);
  const double predicted = csr + kMetisBytesPerEntry * static_cast<double>(entries);
  log::info("METIS: {} nodes, {} edges into {} parts, about {:.2f} GiB of memory", count,
            entries / 2, parts, predicted / kGiB);
  if (predicted > available_bytes()) {
    log::warn(
        "METIS may need {:.1f} GiB and {:.1f} GiB are free; --partition.max-degree {} would need "
        "less",
        predicted / kGiB, available_bytes() / kGiB,
        std::max<std::int64_t>(1, entries / 2 / std::max<std::int64_t>(1, graph.users) / 2));
  }

  std::vector<idx_t> index(graph.nodes, -1), offsets{0}, adjacency, weights;
  offsets.reserve(count + 1);
  adjacency.reserve(entries);
  weights.reserve(2 * count);
  for (std::int64_t k = 0; k < count; ++k) index[connected[k]] = static_cast<idx_t>(k);
  for (const std::int32_t node : connected) {
    for (std::int64_t e = visible.row_offsets[node]; e < visible.row_offsets[node + 1]; ++e) {
      adjacency.push_back(index[visible.col[e]]);
    }
    offsets.push_back(static_cast<idx_t>(adjacency.size()));
    weights.push_back(1);
    weights.push_back(static_cast<idx_t>(graph.degree(node)));
  }
  std::array<idx_t, METIS_NOPTIONS> options;
  METIS_SetDefaultOptions(options.data());
  options[METIS_OPTION_SEED] = static_cast<idx_t>(seed & 0x7fffffff);
  options[METIS_OPTION_NUMBERING] = 0;
  auto vertices = static_cast<idx_t>(count), part_count = static_cast<idx_t>(parts);
  idx_t constraints = 2, cut = 0;
  std::array<real_t, 2> imbalance{kImbalance, kImbalance};
  std::vector<idx_t> part(count, -1);
  const int status = METIS_PartGraphKway(&vertices, &constraints, offsets.data(), adjacency.data(),
                                         weights.data(), nullptr, nullptr, &part_count, nullptr,
                                         imbalance.data(), options.data(), &cut, part.data());
  if (status != METIS_OK) {
    throw DataError("METIS failed ({}); give --partition.max-degree, or --partition.method random",
                    status == METIS_ERROR_MEMORY ? "out of memory" : "internal error");
  }
  for (std::int64_t k = 0; k < count; ++k) {
    if (part[k] < 0 || part[k] >= part_count) {
      throw DataError("METIS gave node {} to part {} of {}", connected[k], part[k], parts);
    }
    owner[connected[k]] = static_cast<std::int32_t>(part[k]);
  }
  deal(isolated, parts, owner);
  return owner;
}

double max_over_mean(const std::vector<std::int64_t>& values) {
  const auto sum = std::accumulate(values.begin(), values.end(), std::int64_t{0});
  if (sum == 0) return 1;
  const auto most = *std::max_element(values.begin(), values.end());
  return static_cast<double>(most) * static_cast<double>(values.size()) / static_cast<double>(sum);
}

CutKind resolved_cut(const Dataset& dataset, const std::string& cut) {
  if (cut == "auto") return dataset.user_time_split() ? CutKind::fold : CutKind::window;
  return parse_cut(cut);
}

void check_owner(const BipartiteGraph& graph, const std::vector<std::int32_t>& owner,
                 std::int64_t parts) {
  if (static_cast<std::int64_t>(owner.size()) != graph.nodes) {
    throw DataError("partition: {} owners for {} nodes", owner.size(), graph.nodes);
  }
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    if (owner[node] < 0 || owner[node] >= parts) {
      throw DataError("partition: node {} was given to part {} of {}", node, owner[node], parts);
    }
  }
}

void check_config(const PartitionConfig& config, std::int64_t nodes) {
  if (config.parts < 1) throw ConfigError("--parts: {} is below 1", config.parts);
  if (config.parts > kMaxParts) {
    throw ConfigError("{} parts (ranks): at most {} are supported", config.parts, kMaxParts);
  }
  if (config.parts > nodes) {
    throw ConfigError("{} parts (ranks) for a graph of {} nodes: each needs at least one node",
                      config.parts, nodes);
  }
  if (config.method != "metis" && config.method != "random") {
    throw ConfigError("--partition.method: unknown method \"{}\"; choose metis or random",
                      config.method);
  }
  if (config.max_degree < 0)
    throw ConfigError("--partition.max-degree: {} is below 0", config.max_degree);
}

void warn_if_poor(const PartitionCost& cost, const PartitionCost& random) {
  const auto most = *std::max_element(cost.halo_rows.begin(), cost.halo_rows.end());
  const auto most_random = *std::max_element(random.halo_rows.begin(), random.halo_rows.end());
  if (most >= most_random && most_random > 0) {
    log::warn(
        "partition: the largest halo, {} rows, is no smaller than a random partition's, {}; this "
        "graph has no communities to find: --partition.method random would do as well",
        most, most_random);
  }
  if (const double edges = max_over_mean(cost.entries); edges > kImbalanceToReport) {
    log::warn(
        "partition: the heaviest part has {:.2f} times the mean number of edges; a few nodes of "
        "very high degree, or too many parts for this graph",
        edges);
  }
}

}  // namespace

std::vector<std::int32_t> partition_nodes(const BipartiteGraph& graph,
                                          const PartitionConfig& config) {
  check_config(config, graph.nodes);
  if (config.parts == 1) return std::vector<std::int32_t>(graph.nodes, 0);
  if (config.method == "random") return random_owner(graph.nodes, config.parts, config.seed);
  if (config.max_degree == 0) return metis_owner(graph, graph, config.parts, config.seed);
  return metis_owner(graph, thin(graph, config.max_degree), config.parts, config.seed);
}

PartitionCost partition_cost(const BipartiteGraph& graph, const std::vector<std::int32_t>& owner,
                             std::int64_t parts) {
  check_owner(graph, owner, parts);
  PartitionCost cost;
  cost.nodes.assign(parts, 0);
  cost.users.assign(parts, 0);
  cost.entries.assign(parts, 0);
  cost.halo_rows.assign(parts, 0);
  cost.rows.assign(parts, std::vector<std::int64_t>(parts, 0));
  std::vector<std::int64_t> last_source(parts, -1);  // node that this part counted last
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    const std::int32_t home = owner[node];
    ++cost.nodes[home];
    cost.users[home] += node < graph.users;
    cost.entries[home] += graph.degree(node);
    for (std::int64_t e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      const std::int32_t away = owner[graph.col[e]];
      if (away == home) continue;
      cost.edge_cut += node < graph.users;
      if (last_source[away] == node) continue;
      last_source[away] = node;
      ++cost.halo_rows[away];
      ++cost.rows[home][away];
    }
  }
  return cost;
}

namespace {

// Fills and commits the directory; `start`: when the work began.
nlohmann::json write(const Dataset& dataset, const PartitionConfig& config, const CutRule& cut,
                     const BipartiteGraph& graph, const std::vector<std::int32_t>& owner,
                     AtomicDirectory& output, Clock::time_point start) {
  const PartitionCost cost = partition_cost(graph, owner, config.parts);
  const PartitionCost random =
      partition_cost(graph, random_owner(graph.nodes, config.parts, config.seed), config.parts);

  const nlohmann::json options{{"method", config.method},
                               {"cut", to_string(cut.kind())},
                               {"groups", config.groups},
                               {"max_degree", config.max_degree},
                               {"seed", config.seed}};
  // Ties the shards of one directory to each other, so that a mixture is noticed.
  const std::string_view owner_bytes(reinterpret_cast<const char*>(owner.data()),
                                     owner.size() * sizeof(owner[0]));
  const std::string id =
      sha256(dataset.fingerprint() + options.dump() + sha256(owner_bytes)).substr(0, 16);

  ShardWriter writer(graph, owner, static_cast<int>(config.parts), cut.groups());
  for (int part = 0; part < config.parts; ++part) {
    writer.write(output.path(), part,
                 {{"format_version", std::to_string(kPartitionVersion)},
                  {"partition_id", id},
                  {"part", std::to_string(part)},
                  {"parts", std::to_string(config.parts)},
                  {"groups", std::to_string(cut.groups())}});
  }
  write_training_order(output.path(), dataset, cut);
  auto bytes_per_layer = cost.rows;
  for (auto& row : bytes_per_layer) {
    for (std::int64_t& rows : row) rows *= kBytesPerRow;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::json report{{"format_version", kPartitionVersion},
                        {"partition_id", id},
                        {"dataset_fingerprint", dataset.fingerprint()},
                        {"options", options},
                        {"cut", cut.to_json()},
                        {"anchor_shares", to_json(anchor_shares(dataset, cut))},
                        {"parts", config.parts},
                        {"nodes", graph.nodes},
                        {"edges", graph.edges()},
                        {"seed", config.seed},
                        {"edge_cut", cost.edge_cut},
                        {"edge_cut_random", random.edge_cut},
                        {"halo_rows", cost.halo_rows},
                        {"halo_rows_random", random.halo_rows},
                        {"bytes_per_row", kBytesPerRow},
                        {"bytes_per_layer", bytes_per_layer},
                        {"nodes_per_part", cost.nodes},
                        {"users", cost.users},
                        {"edges_per_part", cost.entries},
                        {"balance",
                         {{"nodes", max_over_mean(cost.nodes)},
                          {"edges", max_over_mean(cost.entries)},
                          {"halo_rows", max_over_mean(cost.halo_rows)},
                          {"halo_rows_random", max_over_mean(random.halo_rows)}}},
                        {"seconds", std::chrono::duration<double>(Clock::now() - start).count()},
                        {"peak_memory_bytes", std::int64_t{usage.ru_maxrss} * 1024}};
  write_json(output.path() / kMarker, report);
  output.commit();
  if (config.method == "metis" && config.parts > 1) warn_if_poor(cost, random);
  return report;
}

}  // namespace

nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config) {
  const auto start = Clock::now();
  check_config(config, dataset.nodes());
  AtomicDirectory output(partition_directory(dataset, static_cast<int>(config.parts)), kMarker);
  const CutRule cut(dataset, resolved_cut(dataset, config.cut), config.groups);
  const BipartiteGraph graph = build_training_graph(dataset, cut);
  return write(dataset, config, cut, graph, partition_nodes(graph, config), output, start);
}

nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config,
                               const CutRule& cut, const BipartiteGraph& graph,
                               const std::vector<std::int32_t>& owner,
                               const std::filesystem::path& directory) {
  check_config(config, graph.nodes);
  AtomicDirectory output(directory, kMarker);
  return write(dataset, config, cut, graph, owner, output, Clock::now());
}

std::filesystem::path partition_directory(const Dataset& dataset, int parts) {
  return dataset.directory() / fmt::format("partition-{}", parts);
}

std::optional<std::string> reason_to_partition(const Dataset& dataset,
                                               const PartitionConfig& config, Reuse reuse) {
  const auto directory = partition_directory(dataset, static_cast<int>(config.parts));
  if (!path_exists(directory)) return "is missing";
  const auto path = directory / kMarker;
  const nlohmann::json json = read_json(path);
  try {
    if (json.at("format_version") != kPartitionVersion) return "has another format";
    if (json.at("parts") != config.parts) return "has another number of parts";
    if (json.at("dataset_fingerprint") != dataset.fingerprint())
      return "belongs to an older dataset";
    const auto& options = json.at("options");
    const auto differs = [&](const char* option, const char* key, const nlohmann::json& asked) {
      return options.at(key) == asked ? std::optional<std::string>()
                                      : fmt::format("was made with --{} {}, now {}", option,
                                                    options.at(key).dump(), asked.dump());
    };
    std::optional<std::string> reason;
    if (reuse >= Reuse::same_cut) {
      reason = differs("graph.cut", "cut", to_string(resolved_cut(dataset, config.cut)));
      if (!reason) reason = differs("graph.groups", "groups", config.groups);
    }
    if (!reason && reuse >= Reuse::same_division) {
      reason = differs("partition.method", "method", config.method);
      if (!reason) reason = differs("partition.max-degree", "max_degree", config.max_degree);
    }
    return reason;
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: {}; rebuild it with graphlora partition --data {} --parts {}",
                    path.string(), error.what(), dataset.directory().string(), config.parts);
  }
}

void ensure_partition(Job& job, const Dataset& dataset, const PartitionConfig& config,
                      Reuse reuse) {
  job.agree([&] {
    if (job.world()->rank() != 0) return;
    if (config.parts != job.world()->size()) {
      throw ConfigError("partition: {} parts for {} ranks", config.parts, job.world()->size());
    }
    const auto reason = reason_to_partition(dataset, config, reuse);
    if (!reason) return;
    log::info("{} {}: building it",
              partition_directory(dataset, static_cast<int>(config.parts)).string(), *reason);
    write_partition(dataset, config);
  });
}

}  // namespace graphlora
