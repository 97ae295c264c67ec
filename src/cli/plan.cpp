// graphlora plan: time and memory of a training step on a cluster, before it is there.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "cli/train_settings.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "train/benchmark/summary.hpp"
#include "train/plan/calibrate.hpp"

namespace graphlora {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGiB = 1 << 30, kDay = 86400;

struct PlanOptions {
  std::string cluster, statistics, data, model, pretrained;
  std::vector<std::string> calibrate;
  std::vector<std::int64_t> ranks, micro_batches{1024, 2048, 4096, 8192, 16384, 32768};
  std::int64_t best = 5;
  bool json = false;
  std::shared_ptr<TrainSettings> settings;

  OptionTable table() {
    OptionTable table(
        "plan", "Predicts time and memory of training on a cluster",
        "Reads a cluster's description (configs/clusters has examples, docs/plan.md says what the "
        "keys mean), a dataset or its statistics, and a model's config.json; computes what a rank "
        "holds and how long a step takes for every tensor group, micro-batch and recompute that "
        "go, and prints the best: what each part of the step takes, why, and what limits it "
        "(compute, memory, network). Every rank has one part of the graph. With --calibrate the "
        "rates are those that `benchmark --what all` measured. Nothing is run; options of train "
        "that tell of the model, the batch and the graph count, its other ones have no effect.");
    table
        .example(
            "graphlora plan --cluster configs/clusters/h100-infiniband.ini --statistics "
            "configs/clusters/hundred-million-users.json --model run/model --batch-size 4096",
            "a large run")
        .example(
            "graphlora plan --cluster configs/clusters/cpu.ini --data run/dataset --model "
            "run/model "
            "--calibrate run/benchmark --ranks 1,2 --json",
            "this machine, by its own measurements");
    table.add_required("Input", "cluster", &cluster, "FILE: the cluster's description")
        .add("Input", "data", &data, "DIR: dataset written by prepare, with its partition reports")
        .add("Input", "statistics", &statistics,
             "FILE: in place of a dataset: JSON with users, items, edges, tokens_per_example, "
             "embedding_width")
        .add_required("Input", "model", &model,
                      "DIR: LLM in Hugging Face format; with --statistics its config.json will do")
        .add("Input", "pretrained", &pretrained,
             "DIR: embeddings written by pretrain, for their width; empty: 256 wide")
        .add("Input", "calibrate", &calibrate,
             "DIR,DIR…: results of benchmark, whose rates replace the cluster's")
        .add("Plan", "ranks", &ranks, "numbers of ranks; empty: all devices of the cluster")
        .add("Plan", "micro-batches", &micro_batches,
             "values of --micro-batch to try, where that is not given")
        .add("Plan", "best", &best, "plans printed for each number of ranks",
             in_range(best, 1, 1000))
        .add("Plan", "json", &json, "print one JSON object");
    settings = add_training_options(table);
    add_common_options(table, settings->common);
    return table;
  }
};

void check(const PlanOptions& options) {
  if (options.data.empty() == options.statistics.empty())
    throw ConfigError("plan: give either --data or --statistics");
  for (const auto& [name, values] :
       {std::pair("ranks", options.ranks), {"micro-batches", options.micro_batches}})
    for (const std::int64_t value : values)
      if (value < 1 || value > (1 << 30))
        throw ConfigError("--{} {}: must be numbers from 1 on", name, fmt::join(values, ","));
  if (options.micro_batches.empty()) throw ConfigError("--micro-batches: name at least one");
}

plan::Model read_model(const PlanOptions& options) {
  const std::filesystem::path path = options.model;
  const bool directory = std::filesystem::is_directory(path);
  plan::Model model{.config = read_llama_config(directory ? path / "config.json" : path),
                    .settings = options.settings->model_config};
  if (directory)
    for (const auto& file : std::filesystem::directory_iterator(path))
      if (file.path().extension() == ".safetensors")
        model.file_bytes += static_cast<std::int64_t>(file.file_size());
  plan::require_predictable(model);
  return model;
}

Json to_json(const plan::Prediction& p) {
  Json parts = Json::array(), memory = Json::object();
  for (const plan::Part& part : p.parts)
    parts.push_back({{"name", part.name},
                     {"bound", to_string(part.bound)},
                     {"seconds", part.seconds},
                     {"why", part.why}});
  for (const auto& [name, bytes] : p.memory) memory[name] = bytes;
  return {{"ranks", p.layout.ranks},
          {"replicas", p.layout.replicas()},
          {"tensor_parallel", p.layout.tensor_parallel},
          {"parts", p.layout.ranks},
          {"batch_size", p.layout.batch_size},
          {"micro_batch", p.layout.micro_batch},
          {"recompute", p.layout.recompute ? "layer" : "none"},
          {"step_seconds", p.step_seconds},
          {"tokens_per_s", p.tokens_per_step / p.step_seconds},
          {"bound", to_string(p.bound)},
          {"memory_bytes", p.memory_bytes},
          {"fits", p.fits},
          {"graph", p.graph_source},
          {"time", parts},
          {"memory", memory}};
}

void print(const plan::Prediction& p, const plan::Workload& workload) {
  fmt::print(
      "{} ranks = {} replicas × {} of a tensor group, {} parts of the graph, micro-batch {}, "
      "recompute {}\n"
      "  step {:.4g} s, {:.4g} tokens/s, bound by {}; {:.2f} GiB a rank{}\n",
      p.layout.ranks, p.layout.replicas(), p.layout.tensor_parallel, p.layout.ranks,
      p.layout.micro_batch, p.layout.recompute ? "layer" : "none", p.step_seconds,
      p.tokens_per_step / p.step_seconds, to_string(p.bound), p.memory_bytes / kGiB,
      p.fits ? "" : ": DOES NOT FIT");
  for (const plan::Part& part : p.parts)
    fmt::print("    {:<18}{:>11.4g} s {:>5.1f} %  {:<8} {}\n", part.name, part.seconds,
               100 * part.seconds / p.step_seconds, to_string(part.bound), part.why);
  std::string memory;
  for (const auto& [name, bytes] : p.memory)
    memory += fmt::format("{}{} {:.3g}", memory.empty() ? "" : ", ", name, bytes / kGiB);
  const double steps =
      std::ceil(static_cast<double>(workload.edges) / static_cast<double>(p.layout.batch_size));
  fmt::print("    GiB: {}\n    {:.3g} steps go once through the positives: {:.3g} days\n", memory,
             steps, steps * p.step_seconds / kDay);
}

void run(const PlanOptions& options, const OptionTable& table) {
  const plan::Cluster described = plan::read_cluster(options.cluster);
  const plan::Model model = read_model(options);
  const TrainSettings& settings = *options.settings;
  const plan::Workload workload =
      options.data.empty() ? plan::read_statistics(options.statistics)
                           : plan::workload_of(options.data, options.model, options.pretrained,
                                               settings.model_config, settings.partition);
  std::vector<benchmark::Run> runs;
  for (const std::string& directory : options.calibrate)
    for (benchmark::Run& one : benchmark::read_runs(directory)) runs.push_back(std::move(one));
  std::vector<std::int64_t> counts = options.ranks;
  if (counts.empty()) counts.push_back(described.devices());
  Json json{{"cluster", described.name}, {"workload", workload.source}, {"plans", Json::array()}};
  for (const std::int64_t ranks : counts) {
    if (ranks > described.devices())
      throw ConfigError("--ranks {}: {} has {} devices", ranks, options.cluster,
                        described.devices());
    std::string rates = "rates of " + options.cluster;
    const plan::Cluster cluster =
        runs.empty() ? described
                     : plan::calibrated(described, runs, model.config.hidden_size, ranks, rates);
    std::vector<plan::Prediction> found =
        plan::search(cluster, workload, model, settings.train, ranks,
                     table.given("tensor-parallel") ? settings.tensor_parallel : 0,
                     table.given("micro-batch") ? std::vector{settings.train.micro_batch}
                                                : options.micro_batches);
    if (found.empty())
      throw ConfigError(
          "--ranks {}: no layout goes: --batch-size {} must be at least the number of replicas, "
          "and "
          "--tensor-parallel divide the {} devices of a node",
          ranks, settings.train.batch_size, described.per_node);
    if (static_cast<std::int64_t>(found.size()) > options.best)
      found.resize(static_cast<std::size_t>(options.best));
    if (!options.json) fmt::print("{}: {}\n", described.name, rates);
    for (const plan::Prediction& prediction : found) {
      if (options.json) {
        Json one = to_json(prediction);
        one["rates"] = rates;
        json["plans"].push_back(std::move(one));
      } else {
        print(prediction, workload);
      }
    }
  }
  if (options.json) fmt::print("{}\n", json.dump(1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

OptionTable describe_plan() { return table_of<PlanOptions>(); }

int run_plan(Job& job, const std::vector<std::string>& arguments) {
  PlanOptions options;
  OptionTable table = options.table();
  job.agree([&] {
    table.parse(arguments);
    check(options);
    settle(*options.settings);
  });
  job.agree([&] {
    if (job.world()->rank() == 0) run(options, table);
  });
  return 0;
}

}  // namespace graphlora
