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
        .example("graphlora partition --data run/dataset --parts 8 --partition.hubs auto",
                 "items that nearly every rank needs become hubs, as many as save bytes")
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
  // Columns: this division, the same without hubs where it has some, random (unless that is this
  // one).
  const auto& hubs = report.at("hubs");
  const auto& plain = report.at("without_hubs");
  const bool is_random = options.at("method") == "random";
  const auto exchange = hubs.at("exchange_rows").get<std::int64_t>();
  const auto row = [&](const char* name, const std::string& value, const std::string& plain_value,
                       const std::string& random_value) {
    fmt::format_to(out, "{:<32}{:>16}", name, value);
    if (!plain.is_null()) fmt::format_to(out, "{:>16}", plain_value);
    if (!is_random || !plain.is_null()) fmt::format_to(out, "{:>16}", random_value);
    text += '\n';
  };
  const auto halo_plain = plain.is_null() ? halo : list(plain, "halo_rows");
  const auto counts = [&](const char* name, const auto& of) {
    row(name, fmt::to_string(of(halo)), fmt::to_string(of(halo_plain)),
        fmt::to_string(of(halo_random)));
  };
  const auto share = [&](const nlohmann::json& from, const char* key) {
    const double all = std::max(1.0, static_cast<double>(edges));
    return fmt::format("{:.1f} %", 100.0 * from.at(key).get<double>() / all);
  };
  const auto of_random = [&](std::int64_t rows) {
    const auto all = static_cast<double>(sum(halo_random));
    return all > 0 ? fmt::format("{:.3f}", static_cast<double>(rows) / all) : std::string("-");
  };
  const auto ratio = [&](const std::vector<std::int64_t>& values) {
    const auto all = static_cast<double>(sum(values));
    const auto parts = static_cast<double>(values.size());
    return fmt::format("{:.3f}", all > 0 ? static_cast<double>(most(values)) * parts / all : 1.0);
  };
  row("", is_random ? "this one" : options.at("method").get<std::string>(), "without hubs",
      "random");
  row("hubs", hubs.at("count").dump(), "0", "0");
  row("edges cut", share(report, "edge_cut"), plain.is_null() ? "" : share(plain, "edge_cut"),
      share(report, "edge_cut_random"));
  counts("halo rows, all parts", sum);
  row("hub rows exchanged, all parts", fmt::to_string(exchange), "0", "0");
  row("rows a layer, of random's", of_random(sum(halo) + exchange), of_random(sum(halo_plain)),
      of_random(sum(halo_random)));
  counts("halo rows, largest part", most);
  counts("halo rows, max/mean", ratio);
  fmt::format_to(out, "{:<32}{:>16.3f}\n", "nodes, max/mean", balance.at("nodes").get<double>());
  fmt::format_to(out, "{:<32}{:>16.3f}\n\n", "edges, max/mean", balance.at("edges").get<double>());

  if (!hubs.at("candidates").empty()) {
    fmt::format_to(out, "{:>8}{:>26}{:>12}{:>12}{:>16}\n", "hubs", "in a division made for",
                   "halo rows", "hub rows", "bytes a layer");
    for (const auto& candidate : hubs.at("candidates")) {
      fmt::format_to(out, "{:>8}{:>26}{:>12}{:>12}{:>16}\n",
                     candidate.at("hubs").get<std::int64_t>(),
                     candidate.at("division_made_with_hubs").get<std::int64_t>(),
                     candidate.at("halo_rows").get<std::int64_t>(),
                     candidate.at("exchange_rows").get<std::int64_t>(),
                     size_text(candidate.at("bytes_per_layer").get<double>()));
    }
    text += '\n';
  }

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
  if (exchange > 0) {
    const auto bytes = hubs.at("exchange_bytes_per_layer").get<double>();
    fmt::format_to(out, "beside them every part exchanges {} a layer for hubs\n",
                   size_text(bytes / static_cast<double>(halo.size())));
  }
  fmt::format_to(out, "\n{:.1f} s (", report.at("seconds").get<double>());
  const char* separator = "";
  for (const auto& [phase, seconds] : report.at("seconds_per_phase").items()) {
    fmt::format_to(out, "{}{} {:.1f}", separator, phase, seconds.get<double>());
    separator = ", ";
  }
  fmt::format_to(out, "), {} of memory at most", size_text(report.at("peak_memory_bytes")));
  if (const auto& predicted = report.at("predicted_memory_bytes"); !predicted.is_null()) {
    fmt::format_to(out, ", {} predicted before METIS began", size_text(predicted));
  }
  text += '\n';
  return text;
}

}  // namespace

OptionTable describe_partition() { return table_of<PartitionOptions>(); }

int run_partition(Job& job, const std::vector<std::string>& arguments) {
  PartitionOptions options;
  job.agree([&] {
    OptionTable table = options.table();
    table.parse(arguments);
    if (options.config.method == "random" && table.given("partition.max-degree"))
      throw ConfigError(
          "--partition.max-degree: is for METIS, it has no effect with --partition.method random");
  });
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
