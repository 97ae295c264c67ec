#include "train/plan/workload.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/prompt.hpp"
#include "graph/bipartite_graph.hpp"

namespace graphlora::plan {
namespace {

constexpr std::int64_t kSampledRows = 1000;

double most(const nlohmann::json& values) {
  const auto numbers = values.get<std::vector<double>>();
  if (numbers.empty()) throw DataError("partition.json: an empty list");
  return *std::max_element(numbers.begin(), numbers.end());
}

}  // namespace

Share Workload::share(std::int64_t ranks) const {
  const auto parts = static_cast<double>(ranks);
  if (const auto found = partitions.find(ranks); found != partitions.end()) {
    const nlohmann::json& report = found->second;
    try {
      double sent = 0;
      for (const auto& row : report.at("bytes_per_layer")) {
        double bytes = 0;
        for (const double to : row.get<std::vector<double>>()) bytes += to;
        sent = std::max(sent, bytes / report.at("bytes_per_row").get<double>());
      }
      return {most(report.at("nodes_per_part")), most(report.at("edges_per_part")),
              most(report.at("halo_rows")), sent, fmt::format("partition-{}", ranks)};
    } catch (const nlohmann::json::exception& error) {
      throw DataError("partition-{}/partition.json: {}; rebuild it", ranks, error.what());
    }
  }
  // A node is wanted by each of the other parts that has one of its neighbours.
  double halo = 0;
  for (const auto& [degree, count] : degrees)
    halo += count * (parts - 1) * (1 - std::pow(1 - 1 / parts, degree));
  halo *= share_of_random_halo / parts;
  return {static_cast<double>(nodes()) / parts, 2 * static_cast<double>(edges) / parts, halo, halo,
          fmt::format("{:.3g} of a random partition's halo", share_of_random_halo)};
}

Workload read_statistics(const std::filesystem::path& path) {
  const nlohmann::json json = read_json(path);
  const auto number = [&](const char* key, double low, double high,
                          std::optional<double> otherwise = std::nullopt) {
    if (!json.is_object() || !json.contains(key)) {
      if (otherwise) return *otherwise;
      throw DataError("{}: has no {}", path.string(), key);
    }
    const double value = json[key].is_number() ? json[key].get<double>() : std::nan("");
    if (!(value >= low && value <= high))
      throw DataError("{}: {} is {}, must be from {} to {}", path.string(), key, json[key].dump(),
                      low, high);
    return value;
  };
  Workload w;
  w.users = static_cast<std::int64_t>(number("users", 1, 2e9));
  w.items = static_cast<std::int64_t>(number("items", 1, 2e9));
  w.edges = static_cast<std::int64_t>(number("edges", 0, 1e13));
  w.tokens_per_example = number("tokens_per_example", 1, 1 << 20);
  w.embedding_width = static_cast<std::int64_t>(number("embedding_width", 1, 1 << 16));
  w.tokens_per_title = number("tokens_per_title", 0, 1 << 20, 12);
  w.share_of_random_halo = number("share_of_random_halo", 0, 1, 1);
  w.groups = static_cast<std::int64_t>(number("groups", 1, 65535, 8));
  w.degrees[static_cast<double>(w.edges) / static_cast<double>(w.users)] +=
      static_cast<double>(w.users);
  w.degrees[static_cast<double>(w.edges) / static_cast<double>(w.items)] +=
      static_cast<double>(w.items);
  w.source = path.string();
  return w;
}

Workload workload_of(const std::filesystem::path& data, const std::filesystem::path& model,
                     const std::filesystem::path& pretrained, const ModelConfig& config,
                     const PartitionConfig& partition) {
  const Dataset dataset(data);
  Workload w;
  w.source = data.string();
  w.users = dataset.users();
  w.items = dataset.items();
  w.groups = partition.groups;
  {
    const CutRule cut(dataset, CutKind::none, 1);
    const BipartiteGraph graph = build_training_graph(dataset, cut);
    w.edges = graph.edges();
    for (std::int64_t node = 0; node < graph.nodes; ++node)
      ++w.degrees[static_cast<double>(graph.degree(node))];
  }
  const Tokenizer tokenizer(model);
  const PromptBuilder prompts(dataset, tokenizer, config.prompt);
  w.tokens_per_title = static_cast<double>(prompts.titles().tokens().size()) /
                       static_cast<double>(std::max<std::int64_t>(1, w.items));
  const auto rows = dataset.sample(Split::train, kSampledRows, 0);
  if (rows.empty()) throw DataError("{}: has no training rows", data.string());
  for (const std::int64_t row : rows)
    w.tokens_per_example +=
        static_cast<double>(prompts.length(row, prompts.draw_template(row, config.seed, 0))) /
        static_cast<double>(rows.size());
  if (!pretrained.empty()) {
    const auto json = read_json(pretrained / "pretrain.json");
    try {
      json.at("width").get_to(w.embedding_width);
    } catch (const nlohmann::json::exception& error) {
      throw DataError("{}: {}", (pretrained / "pretrain.json").string(), error.what());
    }
  }
  double parts_before = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("partition-") || !path_exists(entry.path() / "partition.json")) continue;
    const auto report = read_json(entry.path() / "partition.json");
    try {
      const auto parts = report.at("parts").get<std::int64_t>();
      if (report.at("dataset_fingerprint") != dataset.fingerprint()) continue;
      // The cut of the largest number of parts tells best what METIS saves.
      if (report.at("share_of_random_rows").is_number() &&
          static_cast<double>(parts) > parts_before) {
        w.share_of_random_halo = report["share_of_random_rows"].get<double>();
        parts_before = static_cast<double>(parts);
      }
      w.partitions[parts] = report;
    } catch (const nlohmann::json::exception& error) {
      throw DataError("{}: {}", (entry.path() / "partition.json").string(), error.what());
    }
  }
  return w;
}

}  // namespace graphlora::plan
