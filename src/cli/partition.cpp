// graphlora partition: METIS shards of a dataset and their report.
#include "graph/partition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "cli/partition_options.hpp"
#include "graph/shard_writer.hpp"

namespace graphlora {
namespace {

struct PartitionOptions {
  std::string data;
  PartitionConfig config;
  bool json = false;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "partition", "Cuts a dataset's graph into one part per rank with METIS",
        "Reads DATA, a dataset written by prepare, and writes DATA/partition-P/: one shard per "
        "rank "
        "and partition.json, with the report that is also printed. An older partition for the same "
        "number of parts is replaced. Training builds a missing partition itself; use this command "
        "to see the report or to choose the options.");
    table.example("graphlora partition --data run/dataset --parts 2", "two parts, with METIS")
        .example(
            "graphlora partition --data run/dataset --parts 8 --partition.method random --json",
            "a random partition for comparison, report as JSON")
        .add_required("Input", "data", &data, "DIR: dataset written by prepare")
        .add_required("Partition", "parts", &config.parts, "number of parts: the ranks of the job",
                      in_range(config.parts, 1, kMaxParts));
    add_partition_options(table, "Partition", config);
    table.add("Output", "json", &json, "print the report as JSON");
    add_common_options(table, common);
    return table;
  }
};

std::vector<std::int64_t> list(const nlohmann::json& report, const char* key) {
  return report.at(key).get<std::vector<std::int64_t>>();
}

std::string size_text(double bytes) {
  for (const char* unit : {"B", "KiB", "MiB"}) {
    if (bytes < 1024) return fmt::format("{:.4g} {}", bytes, unit);
    bytes /= 1024;
  }
  return fmt::format("{:.4g} GiB", bytes);
}

std::string report_text(const nlohmann::json& report, const std::string& directory) {
  const auto& options = report.at("options");
  const auto nodes = report.at("nodes").get<std::int64_t>();
  const auto edges = report.at("edges").get<std::int64_t>();
  const auto share = [&](const char* key) {
    return edges == 0 ? 0.0 : 100.0 * report.at(key).get<double>() / static_cast<double>(edges);
  };
  const auto halo = list(report, "halo_rows"), halo_random = list(report, "halo_rows_random");
  const auto sum = [](const std::vector<std::int64_t>& values) {
    return std::accumulate(values.begin(), values.end(), std::int64_t{0});
  };
  const auto most = [](const std::vector<std::int64_t>& values) {
    return *std::max_element(values.begin(), values.end());
  };
  const auto& balance = report.at("balance");

  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "{}: {} nodes, {} edges, cut {} ({} groups), seed {}\n\n", directory, nodes,
                 edges, options.at("cut").get<std::string>(),
                 report.at("cut").at("groups").get<int>(), report.at("seed").get<std::int64_t>());
  fmt::format_to(out, "{:<28}{:>14}{:>14}\n", "", options.at("method").get<std::string>(),
                 "random");
  fmt::format_to(out, "{:<28}{:>12.1f} %{:>12.1f} %\n", "edges cut", share("edge_cut"),
                 share("edge_cut_random"));
  fmt::format_to(out, "{:<28}{:>14}{:>14}\n", "halo rows, all parts", sum(halo), sum(halo_random));
  fmt::format_to(out, "{:<28}{:>14}{:>14}\n", "halo rows, largest part", most(halo),
                 most(halo_random));
  fmt::format_to(out, "{:<28}{:>14.3f}{:>14.3f}\n", "halo rows, max/mean",
                 balance.at("halo_rows").get<double>(),
                 balance.at("halo_rows_random").get<double>());
  fmt::format_to(out, "{:<28}{:>14.3f}\n", "nodes, max/mean", balance.at("nodes").get<double>());
  fmt::format_to(out, "{:<28}{:>14.3f}\n\n", "edges, max/mean", balance.at("edges").get<double>());

  const auto part_nodes = list(report, "nodes_per_part"), users = list(report, "users");
  const auto part_edges = list(report, "edges_per_part");
  fmt::format_to(out, "{:>5}{:>12}{:>12}{:>14}{:>12}{:>22}\n", "part", "nodes", "users", "edges",
                 "halo rows", "sends a layer (r = 8)");
  constexpr std::size_t kShown = 64;
  for (std::size_t part = 0; part < std::min(kShown, halo.size()); ++part) {
    const auto sent = report.at("bytes_per_layer").at(part).get<std::vector<std::int64_t>>();
    fmt::format_to(out, "{:>5}{:>12}{:>12}{:>14}{:>12}{:>22}\n", part, part_nodes[part],
                   users[part], part_edges[part], halo[part],
                   size_text(static_cast<double>(sum(sent))));
  }
  if (halo.size() > kShown)
    fmt::format_to(out, "  ... {} more, see partition.json\n", halo.size() - kShown);
  fmt::format_to(out, "\n{:.1f} s, {} of memory at most\n", report.at("seconds").get<double>(),
                 size_text(report.at("peak_memory_bytes").get<double>()));
  return text;
}

}  // namespace

OptionTable describe_partition() { return table_of<PartitionOptions>(); }

int run_partition(Job& job, const std::vector<std::string>& arguments) {
  PartitionOptions options;
  job.agree([&] { options.table().parse(arguments); });
  apply_common_options(options.common, *job.world());
  options.config.seed = options.common.seed;
  job.agree([&] {
    if (job.world()->rank() != 0) return;
    const Dataset dataset(options.data);
    dataset.verify();
    const nlohmann::json report = write_partition(dataset, options.config);
    const auto directory = partition_directory(dataset, static_cast<int>(options.config.parts));
    fmt::print("{}\n", options.json ? report.dump(2) : report_text(report, directory.string()));
  });
  return 0;
}

}  // namespace graphlora
