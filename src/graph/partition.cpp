#include "graph/partition.hpp"

#include <metis.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/memory.hpp"
#include "core/rng.hpp"
#include "graph/anchor_shares.hpp"
#include "graph/hubs.hpp"
#include "graph/refine.hpp"
#include "graph/shard_writer.hpp"
#include "graph/training_order.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;

// What is learned while a partition is made, for its report.
struct Making {
  Clock::time_point start = Clock::now(), phase_start = start;
  std::map<std::string, double> seconds;      // by phase
  std::int64_t predicted_memory = 0;          // of the process, before METIS; 0: METIS did not run
  std::optional<PartitionCost> without_hubs;  // of the division made without them, where one was
  nlohmann::json candidates = nlohmann::json::array();  // numbers of hubs considered

  // Ends a phase: what passed since the last one ended is its time.
  void phase(const char* name) {
    const auto now = Clock::now();
    seconds[name] += std::chrono::duration<double>(now - phase_start).count();
    phase_start = now;
  }
};

constexpr const char* kMarker = "partition.json";
constexpr std::int64_t kBytesPerRow = 32;  // of the report: 8 numbers of 4 bytes, LightGCN at r = 8
constexpr double kMetisBytesPerEntry = 54;  // beside its input; measured 46 to 60
constexpr double kImbalance = 1.05;         // asked of METIS, for nodes and for edges
constexpr double kImbalanceToReport = 1.2;  // of edges, where one warns
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

// What --partition.hubs asks for; nothing for auto.
std::optional<std::int64_t> hub_count(const PartitionConfig& config, std::int64_t items) {
  const std::string& text = config.hubs;
  if (text == "auto") return std::nullopt;
  std::int64_t count = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < 0) {
    throw ConfigError("--partition.hubs: \"{}\" is neither a number nor auto", text);
  }
  if (count > items) {
    throw ConfigError("--partition.hubs: {} hubs of {} items; give at most as many, or auto", count,
                      items);
  }
  return count;
}

void check_config(const PartitionConfig& config, std::int64_t nodes, std::int64_t items) {
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
  hub_count(config, items);
}

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

// Deals nodes one by one to the part that has least so far (lowest number first): by `load`, to
// which each adds its weight.
template <class Weight>
void deal(const std::vector<std::int32_t>& nodes, std::vector<std::int64_t> load,
          const Weight& weight, std::vector<std::int32_t>& owner) {
  std::vector<std::pair<std::int64_t, std::int32_t>> heap;  // (load, part), least on top
  for (std::size_t part = 0; part < load.size(); ++part) {
    heap.emplace_back(load[part], static_cast<std::int32_t>(part));
  }
  const std::greater<> least_first;
  std::make_heap(heap.begin(), heap.end(), least_first);
  for (const std::int32_t node : nodes) {
    std::pop_heap(heap.begin(), heap.end(), least_first);
    owner[node] = heap.back().second;
    heap.back().first += weight(node);
    std::push_heap(heap.begin(), heap.end(), least_first);
  }
}

// What METIS sees: the graph without hubs, of each user at most so many edges, and without the
// nodes that this leaves no edges.
struct MetisInput {
  std::vector<std::int32_t> nodes;  // ascending
  std::vector<idx_t> offsets, adjacency;
  std::vector<idx_t> weights;  // (node, constraint): 1 and its work
};

void check_index_width(std::int64_t users, std::int64_t entries) {
  constexpr std::int64_t kIndexLimit = std::numeric_limits<idx_t>::max();
  if (entries <= kIndexLimit) return;
  throw ConfigError(
      "partition: {} adjacency entries are beyond this METIS build's {}-bit indices; give "
      "--partition.max-degree so that users times it stays below {} ({} does), or more "
      "--partition.hubs, whose edges METIS does not see, use --partition.method random, or build "
      "with a METIS of 64-bit idx_t",
      entries, 8 * sizeof(idx_t), kIndexLimit / 2,
      std::max<std::int64_t>(1, kIndexLimit / 2 / std::max<std::int64_t>(1, users)));
}

MetisInput metis_input(const BipartiteGraph& graph, const std::vector<std::int64_t>& hubs,
                       const std::vector<std::int32_t>& work, std::int64_t max_degree) {
  std::vector<bool> is_hub(graph.nodes, false);
  for (const std::int64_t hub : hubs) is_hub[hub] = true;
  const auto less_popular = [&](std::int32_t a, std::int32_t b) {
    return std::pair(graph.degree(a), a) < std::pair(graph.degree(b), b);
  };
  std::vector<std::int32_t> items;
  // The user's edges that METIS sees.
  const auto visible = [&](std::int64_t user) -> const std::vector<std::int32_t>& {
    items.clear();
    for (std::int64_t e = graph.row_offsets[user]; e < graph.row_offsets[user + 1]; ++e) {
      if (!is_hub[graph.col[e]]) items.push_back(graph.col[e]);
    }
    if (max_degree > 0 && static_cast<std::int64_t>(items.size()) > max_degree) {
      std::nth_element(items.begin(), items.begin() + max_degree, items.end(), less_popular);
      items.resize(max_degree);
      std::sort(items.begin(), items.end());
    }
    return items;
  };

  std::vector<std::int32_t> degree(graph.nodes, 0);
  std::int64_t edges = 0;
  for (std::int64_t user = 0; user < graph.users; ++user) {
    for (const std::int32_t item : visible(user)) ++degree[item];
    degree[user] = static_cast<std::int32_t>(items.size());
    edges += degree[user];
  }
  check_index_width(graph.users, 2 * edges);
  // METIS adds the weights up in idx_t; they need not be exact, since the result is refined.
  const std::int64_t unit =
      1 + static_cast<std::int64_t>(graph.col.size()) / std::numeric_limits<idx_t>::max();

  MetisInput input;
  std::vector<idx_t> index(graph.nodes, -1);
  input.nodes.reserve(graph.nodes - std::count(degree.begin(), degree.end(), 0));
  input.offsets.reserve(input.nodes.capacity() + 1);
  input.weights.reserve(2 * input.nodes.capacity());
  input.offsets.push_back(0);
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    if (degree[node] == 0) continue;
    index[node] = static_cast<idx_t>(input.nodes.size());
    input.nodes.push_back(static_cast<std::int32_t>(node));
    input.offsets.push_back(input.offsets.back() + degree[node]);
    input.weights.push_back(1);
    input.weights.push_back(static_cast<idx_t>(work[node] / unit));
  }
  input.adjacency.resize(2 * edges);
  std::vector<idx_t> fill(input.offsets.begin(), input.offsets.end() - 1);
  for (const std::int32_t user : input.nodes) {
    if (user >= graph.users) break;
    for (const std::int32_t item : visible(user)) {
      input.adjacency[fill[index[user]]++] = index[item];
      input.adjacency[fill[index[item]]++] = index[user];
    }
  }
  return input;
}

// Parts of the nodes that METIS sees; the others' entries of `owner` stay as they are. Returns the
// process's memory that was predicted before it ran.
std::int64_t run_metis(MetisInput& input, std::int64_t parts, std::int64_t seed,
                       std::vector<std::int32_t>& owner) {
  const auto count = static_cast<std::int64_t>(input.nodes.size());
  const auto entries = static_cast<std::int64_t>(input.adjacency.size());
  const double own = kMetisBytesPerEntry * static_cast<double>(entries);
  const double predicted = static_cast<double>(resident_memory_bytes()) + own;
  log::info(
      "METIS: {} nodes, {} edges into {} parts; {:.2f} GiB of memory beside {:.2f} GiB in use",
      count, entries / 2, parts, own / kGiB, (predicted - own) / kGiB);
  if (own > static_cast<double>(available_memory_bytes())) {
    log::warn(
        "METIS may need {:.1f} GiB and {:.1f} GiB are free; --partition.hubs and a "
        "--partition.max-degree below {} would need less",
        own / kGiB, static_cast<double>(available_memory_bytes()) / kGiB,
        std::max<std::int64_t>(2, entries / count));
  }
  std::array<idx_t, METIS_NOPTIONS> options;
  METIS_SetDefaultOptions(options.data());
  options[METIS_OPTION_SEED] = static_cast<idx_t>(seed & 0x7fffffff);
  options[METIS_OPTION_NUMBERING] = 0;
  auto vertices = static_cast<idx_t>(count), part_count = static_cast<idx_t>(parts);
  idx_t constraints = 2, cut = 0;
  std::array<real_t, 2> imbalance{kImbalance, kImbalance};
  std::vector<idx_t> part(count, -1);
  const int status = METIS_PartGraphKway(
      &vertices, &constraints, input.offsets.data(), input.adjacency.data(), input.weights.data(),
      nullptr, nullptr, &part_count, nullptr, imbalance.data(), options.data(), &cut, part.data());
  if (status != METIS_OK) {
    throw DataError(
        "METIS failed ({}); give --partition.hubs, --partition.max-degree, or "
        "--partition.method random",
        status == METIS_ERROR_MEMORY ? "out of memory" : "internal error");
  }
  for (std::int64_t k = 0; k < count; ++k) {
    if (part[k] < 0 || part[k] >= part_count) {
      throw DataError("METIS gave node {} to part {} of {}", input.nodes[k], part[k], parts);
    }
    owner[input.nodes[k]] = static_cast<std::int32_t>(part[k]);
  }
  return static_cast<std::int64_t>(predicted);
}

// The same number of hubs to every part, but for one.
void deal_hubs(const std::vector<std::int64_t>& hubs, std::int64_t parts,
               std::vector<std::int32_t>& owner) {
  for (std::size_t k = 0; k < hubs.size(); ++k) {
    owner[hubs[k]] = static_cast<std::int32_t>(static_cast<std::int64_t>(k) % parts);
  }
}

// Deals the nodes that METIS did not see (owner -1): those with work by the work of the parts, the
// heaviest first, then hubs evenly, then the others by the number of nodes.
void deal_unseen(const std::vector<std::int32_t>& work, const std::vector<std::int64_t>& hubs,
                 std::int64_t parts, std::vector<std::int32_t>& owner) {
  std::vector<bool> is_hub(owner.size(), false);
  for (const std::int64_t hub : hubs) is_hub[hub] = true;
  std::vector<std::int32_t> working, idle;
  std::vector<std::int64_t> load(parts, 0);
  for (std::size_t node = 0; node < owner.size(); ++node) {
    if (owner[node] >= 0) load[owner[node]] += work[node];
    if (owner[node] >= 0 || is_hub[node]) continue;
    (work[node] > 0 ? working : idle).push_back(static_cast<std::int32_t>(node));
  }
  std::stable_sort(working.begin(), working.end(),
                   [&](std::int32_t a, std::int32_t b) { return work[a] > work[b]; });
  deal(
      working, load, [&](std::int32_t node) { return work[node]; }, owner);
  deal_hubs(hubs, parts, owner);
  std::fill(load.begin(), load.end(), 0);
  for (const std::int32_t part : owner) {
    if (part >= 0) ++load[part];
  }
  deal(
      idle, load, [](std::int32_t) { return 1; }, owner);
}

Division metis_division(const BipartiteGraph& graph, std::vector<std::int64_t> hubs,
                        const PartitionConfig& config, Making& making) {
  const std::vector<std::int32_t> work = work_of_nodes(graph, hubs);
  Division division(std::vector<std::int32_t>(graph.nodes, -1), std::move(hubs));
  {
    MetisInput input = metis_input(graph, division.hubs, work, config.max_degree);
    making.phase("metis_input");
    // With fewer nodes there is nothing to optimize, and METIS wants more vertices than parts.
    if (static_cast<std::int64_t>(input.nodes.size()) > config.parts) {
      making.predicted_memory = std::max(
          making.predicted_memory, run_metis(input, config.parts, config.seed, division.owner));
    }
    making.phase("metis");
  }
  deal_unseen(work, division.hubs, config.parts, division.owner);
  refine_division(graph, config.parts, division);
  making.phase("refine");
  return division;
}

Division divide(const BipartiteGraph& graph, std::vector<std::int64_t> hubs,
                const PartitionConfig& config, Making& making) {
  if (config.parts == 1) return {std::vector<std::int32_t>(graph.nodes, 0), std::move(hubs)};
  if (config.method == "metis") return metis_division(graph, std::move(hubs), config, making);
  return {random_owner(graph.nodes, config.parts, config.seed), std::move(hubs)};
}

// Chooses the number of hubs by the rows that travel in a layer. The division without hubs tells
// what each number would leave of its halo; a second one is made with the best number by that, and
// tells the same for this number and larger ones, since its parts suit them better.
Division divide_with_best_hubs(const BipartiteGraph& graph, const PartitionConfig& config,
                               Making& making) {
  const std::int64_t items = graph.nodes - graph.users;
  const std::vector<std::int64_t> by_degree = items_by_degree(graph, items);
  struct Best {
    std::int64_t hubs = 0, rows = std::numeric_limits<std::int64_t>::max();
  };
  const auto evaluate = [&](const Division& division, std::int64_t from) {
    const auto halo = halo_rows_by_hubs(graph, division.owner, config.parts, by_degree);
    Best best;
    for (const std::int64_t k : hub_candidates(items)) {
      if (k < from) continue;
      const std::int64_t exchange = hub_exchange_rows(k, config.parts);
      making.candidates.push_back({{"hubs", k},
                                   {"division_made_with_hubs", division.hubs.size()},
                                   {"halo_rows", halo[k]},
                                   {"exchange_rows", exchange},
                                   {"bytes_per_layer", (halo[k] + exchange) * kBytesPerRow}});
      if (halo[k] + exchange < best.rows) best = {k, halo[k] + exchange};
    }
    return best;
  };
  const auto top = [&](std::int64_t k) {
    return std::vector(by_degree.begin(), by_degree.begin() + k);
  };

  Division division = divide(graph, {}, config, making);
  making.without_hubs = partition_cost(graph, division, config.parts);
  Best best = evaluate(division, 0);
  if (best.hubs > 0 && config.method == "metis") {
    Division fitted = divide(graph, top(best.hubs), config, making);
    const Best second = evaluate(fitted, best.hubs);
    if (second.rows <= best.rows) {
      best = second;
      division = std::move(fitted);
    }
  }
  if (static_cast<std::int64_t>(division.hubs.size()) != best.hubs) {
    division.hubs = top(best.hubs);  // more of them than the division was made with
    if (config.method == "metis") {
      deal_hubs(division.hubs, config.parts, division.owner);
      refine_division(graph, config.parts, division);
      making.phase("refine");
    }
  }
  return division;
}

Division make_division(const BipartiteGraph& graph, const PartitionConfig& config, Making& making) {
  const std::int64_t items = graph.nodes - graph.users;
  check_config(config, graph.nodes, items);
  if (const auto hubs = hub_count(config, items)) {
    return divide(graph, items_by_degree(graph, *hubs), config, making);
  }
  if (config.parts == 1) return divide(graph, {}, config, making);
  return divide_with_best_hubs(graph, config, making);
}

std::int64_t sum_of(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

double max_over_mean(const std::vector<std::int64_t>& values) {
  const std::int64_t sum = sum_of(values);
  if (sum == 0) return 1;
  const auto most = *std::max_element(values.begin(), values.end());
  return static_cast<double>(most) * static_cast<double>(values.size()) / static_cast<double>(sum);
}

CutKind resolved_cut(const Dataset& dataset, const std::string& cut) {
  if (cut == "auto") return dataset.user_time_split() ? CutKind::fold : CutKind::window;
  return parse_cut(cut);
}

void warn_if_poor(const PartitionCost& cost, const PartitionCost& random) {
  const auto most = *std::max_element(cost.halo_rows.begin(), cost.halo_rows.end());
  const auto most_random = *std::max_element(random.halo_rows.begin(), random.halo_rows.end());
  if (most >= most_random && most_random > 0) {
    log::warn(
        "partition: the largest halo, {} rows, is no smaller than a random partition's, {}; this "
        "graph has no communities to find, --partition.method random would do as well; or a few "
        "items of very high degree hide them: try --partition.hubs auto",
        most, most_random);
  }
  if (const double edges = max_over_mean(cost.entries); edges > kImbalanceToReport) {
    log::warn(
        "partition: the heaviest part has {:.2f} times the mean number of edges; a few nodes of "
        "very high degree (--partition.hubs auto divides their edges among all parts), or too many "
        "parts for this graph",
        edges);
  }
}

}  // namespace

Division partition_nodes(const BipartiteGraph& graph, const PartitionConfig& config) {
  Making making;
  return make_division(graph, config, making);
}

namespace {

// Fills and commits the directory.
nlohmann::json write(const Dataset& dataset, const PartitionConfig& config, const CutRule& cut,
                     const BipartiteGraph& graph, const Division& division, Making& making,
                     AtomicDirectory& output) {
  const PartitionCost cost = partition_cost(graph, division, config.parts);
  const PartitionCost random =
      partition_cost(graph, random_owner(graph.nodes, config.parts, config.seed), config.parts);
  const auto hubs = static_cast<std::int64_t>(division.hubs.size());
  const std::int64_t exchange_rows = hub_exchange_rows(hubs, config.parts);
  nlohmann::json without_hubs;
  if (hubs > 0) {
    const PartitionCost plain = making.without_hubs
                                    ? *making.without_hubs
                                    : partition_cost(graph, division.owner, config.parts);
    without_hubs = {{"division", making.without_hubs ? "made without hubs" : "this one"},
                    {"edge_cut", plain.edge_cut},
                    {"halo_rows", plain.halo_rows}};
  }
  making.phase("evaluate");

  const nlohmann::json options{{"method", config.method}, {"cut", to_string(cut.kind())},
                               {"groups", config.groups}, {"max_degree", config.max_degree},
                               {"hubs", config.hubs},     {"seed", config.seed}};
  // Ties the shards of one directory to each other, so that a mixture is noticed.
  const auto hash = [](const auto& values) {
    return sha256(std::string_view(reinterpret_cast<const char*>(values.data()),
                                   values.size() * sizeof(values[0])));
  };
  const std::string id =
      sha256(dataset.fingerprint() + options.dump() + hash(division.owner) + hash(division.hubs))
          .substr(0, 16);

  ShardWriter writer(graph, division, static_cast<int>(config.parts), cut.groups());
  for (int part = 0; part < config.parts; ++part) {
    writer.write(output.path(), part,
                 {{"format_version", std::to_string(kPartitionVersion)},
                  {"partition_id", id},
                  {"part", std::to_string(part)},
                  {"parts", std::to_string(config.parts)},
                  {"groups", std::to_string(cut.groups())}});
  }
  write_training_order(output.path(), dataset, cut);
  making.phase("write");

  auto bytes_per_layer = cost.rows;
  for (auto& row : bytes_per_layer) {
    for (std::int64_t& rows : row) rows *= kBytesPerRow;
  }
  const double rows = static_cast<double>(sum_of(cost.halo_rows) + exchange_rows);
  const double random_rows = static_cast<double>(sum_of(random.halo_rows));
  nlohmann::json report{
      {"format_version", kPartitionVersion},
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
      {"hubs",
       {{"count", hubs},
        {"exchange_rows", exchange_rows},
        {"exchange_bytes_per_layer", exchange_rows * kBytesPerRow},
        {"candidates", making.candidates}}},
      {"without_hubs", without_hubs},
      {"share_of_random_rows", random_rows > 0 ? nlohmann::json(rows / random_rows) : nullptr},
      {"nodes_per_part", cost.nodes},
      {"users", cost.users},
      {"edges_per_part", cost.entries},
      {"balance",
       {{"nodes", max_over_mean(cost.nodes)},
        {"edges", max_over_mean(cost.entries)},
        {"halo_rows", max_over_mean(cost.halo_rows)},
        {"halo_rows_random", max_over_mean(random.halo_rows)}}},
      {"seconds", std::chrono::duration<double>(Clock::now() - making.start).count()},
      {"seconds_per_phase", making.seconds},
      {"predicted_memory_bytes",
       making.predicted_memory > 0 ? nlohmann::json(making.predicted_memory) : nullptr},
      {"peak_memory_bytes", peak_memory_bytes()}};
  write_json(output.path() / kMarker, report);
  output.commit();
  if (config.method == "metis" && config.parts > 1) warn_if_poor(cost, random);
  return report;
}

}  // namespace

nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config) {
  Making making;
  check_config(config, dataset.nodes(), dataset.items());
  AtomicDirectory output(partition_directory(dataset, static_cast<int>(config.parts)), kMarker);
  const CutRule cut(dataset, resolved_cut(dataset, config.cut), config.groups);
  const BipartiteGraph graph = build_training_graph(dataset, cut);
  making.phase("graph");
  const Division division = make_division(graph, config, making);
  return write(dataset, config, cut, graph, division, making, output);
}

nlohmann::json write_partition(const Dataset& dataset, const PartitionConfig& config,
                               const CutRule& cut, const BipartiteGraph& graph,
                               const Division& division, const std::filesystem::path& directory) {
  Making making;
  check_config(config, graph.nodes, graph.nodes - graph.users);
  AtomicDirectory output(directory, kMarker);
  return write(dataset, config, cut, graph, division, making, output);
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
      if (!reason) reason = differs("partition.hubs", "hubs", config.hubs);
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
