// graphlora benchmark: measures a training step and its parts, on the ranks given or on several
// numbers of them.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "cli/train_settings.hpp"
#include "cli/version.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/memory.hpp"
#include "core/shortcuts.hpp"
#include "dist/rank_map.hpp"
#include "train/benchmark/fixed_partition.hpp"
#include "train/benchmark/launch.hpp"
#include "train/benchmark/measure_run.hpp"
#include "train/embedding_store.hpp"
#include "train/pretrain.hpp"

namespace graphlora {
namespace {

using benchmark::Run;

constexpr const char* kSummary = "summary.json";

struct BenchmarkOptions {
  std::string output, what = "all", launcher, plan;
  std::int64_t repetitions = 11, warm_up = 3;
  std::vector<std::int64_t> ranks;
  std::vector<std::string> scaling{"strong", "weak"}, series, merge;
  bool oversubscribe = false;
  std::string data, model, pretrained;
  std::shared_ptr<TrainSettings> settings;

  OptionTable table() {
    OptionTable table(
        "benchmark", "Measures a training step and its parts, and how they scale",
        "Runs what `train` would run with the same options: its step (macro), and by themselves "
        "the products of the model's shapes, the decoder, the sums over the shard, the exchanges, "
        "messages between ranks, tokenizer, loading and saving (micro). Start it as the run will "
        "be "
        "started, on the ranks that it will have; or alone with --ranks 1,2,4, and it starts "
        "itself "
        "under mpirun on each of these; or measure elsewhere (slurm/scaling does) and bring the "
        "results together with --merge.\n\n"
        "Writes OUTPUT/results.csv (every repetition of every rank), OUTPUT/summary.json and "
        "OUTPUT/report.html (one file, plots included). Results of ranks that share cores or GPUs "
        "are labelled \"functional, not scaling\". Nothing is trained in the end: options of train "
        "that save, validate or end a run have no effect, so that its INI file will do.");
    table
        .example(
            "mpirun -np 2 graphlora benchmark --data run/dataset --model run/model --pretrained "
            "run/pretrained --output run/benchmark",
            "two ranks")
        .example(
            "graphlora benchmark --ranks 1,2,4 --scaling strong,weak,fixed --config train.ini "
            "--data run/dataset --model run/model --pretrained run/pretrained --output run/scaling",
            "a scaling study on this machine")
        .example("graphlora benchmark --merge run/a,run/b --output run/both",
                 "one report of several runs");
    table.add("Input and output", "data", &data, "DIR: dataset written by prepare")
        .add("Input and output", "model", &model, "DIR: LLM in Hugging Face format")
        .add("Input and output", "pretrained", &pretrained, "DIR: embeddings written by pretrain")
        .add_required("Input and output", "output", &output, "DIR: where the results go")
        .add("Input and output", "merge", &merge,
             "DIR,DIR…: measure nothing, but bring together the results in these")
        .add(
            "Input and output", "plan", &plan,
            "FILE: what `graphlora plan --json` printed, to show its predictions beside the times");
    table
        .add("Benchmark", "what", &what, "micro: the parts; macro: the step; all: both",
             one_of(what, {"micro", "macro", "all"}))
        .add("Benchmark", "repetitions", &repetitions,
             "times that each thing is measured; an interval needs 6",
             in_range(repetitions, 1, 10000))
        .add("Benchmark", "warm-up", &warm_up, "times before that", in_range(warm_up, 0, 10000))
        .add("Benchmark", "ranks", &ranks,
             "numbers of ranks to start this program on, ascending; each rank gets as many threads "
             "as the largest number leaves it, unless --threads says otherwise")
        .add("Benchmark", "scaling", &scaling,
             "with --ranks. strong: the same batch; weak: --batch-size examples for each rank; "
             "fixed: strong with one cut of the graph for all")
        .add("Benchmark", "series", &series,
             "what the results belong to, for --merge: strong, weak, fixed")
        .add("Benchmark", "oversubscribe", &oversubscribe, "allow more ranks than cores")
        .add("Benchmark", "launcher", &launcher,
             "WORDS: what starts ranks, before -np; empty: launch/mpirun, else mpirun");
    settings = add_training_options(table);
    add_common_options(table, settings->common, Computes::on_any_device);
    return table;
  }
};

void check_series(const char* option, const std::vector<std::string>& series) {
  for (const std::string& one : series) {
    if (std::find(benchmark::kSeries.begin(), benchmark::kSeries.end(), one) ==
        benchmark::kSeries.end())
      throw ConfigError("--{} {}: must be of {}", option, one, fmt::join(benchmark::kSeries, ", "));
  }
}

void check_ranks(const BenchmarkOptions& options, int world) {
  if (world > 1)
    throw ConfigError("--ranks: this is {} ranks already; start it alone, without mpirun", world);
  if (options.scaling.empty()) throw ConfigError("--scaling: name at least one series");
  for (std::size_t i = 0; i < options.ranks.size(); ++i) {
    const std::int64_t ranks = options.ranks[i];
    if (ranks < 1 || ranks > (1 << 20) || (i > 0 && ranks <= options.ranks[i - 1]))
      throw ConfigError("--ranks {}: must be ascending numbers from 1 on",
                        fmt::join(options.ranks, ","));
    if (ranks % options.settings->tensor_parallel != 0)
      throw ConfigError("--ranks {}: --tensor-parallel {} does not divide it", ranks,
                        options.settings->tensor_parallel);
    const auto slots = static_cast<std::int64_t>(affinity_cores().size());
    if (ranks > slots && options.launcher.empty() && !options.oversubscribe)
      throw ConfigError(
          "--ranks {}: this machine has {} cores for them; give --oversubscribe (results are then "
          "labelled \"{}\"), or a --launcher that reaches other hosts",
          ranks, slots, "functional, not scaling");
  }
}

void check(const BenchmarkOptions& options, int world) {
  check_series("scaling", options.scaling);
  check_series("series", options.series);
  if (!options.merge.empty()) {
    if (!options.ranks.empty()) throw ConfigError("--merge measures nothing: leave --ranks out");
    return;
  }
  for (const auto& [name, value] : {std::pair("data", options.data),
                                    {"model", options.model},
                                    {"pretrained", options.pretrained}})
    if (value.empty()) throw ConfigError("--{} is required; see graphlora benchmark --help", name);
  settle(*options.settings);
  if (!options.ranks.empty()) check_ranks(options, world);
}

/// The directory, if there is one, holds a study (or nothing), so that files may be replaced.
void check_place(const std::filesystem::path& output) {
  if (!path_exists(output)) return;
  if (!std::filesystem::is_directory(output))
    throw ConfigError("--output {}: is no directory", output.string());
  if (!std::filesystem::is_empty(output) && !path_exists(output / kSummary) &&
      !path_exists(output / "runs"))
    throw ConfigError("--output {}: holds other files; give another directory", output.string());
}

nlohmann::json read_plan(const std::string& path) {
  return path.empty() ? nlohmann::json() : read_json(path);
}

void write_results(const BenchmarkOptions& options, const std::vector<Run>& runs) {
  make_directories(options.output);
  benchmark::write_study(options.output, runs, read_plan(options.plan));
  for (const benchmark::Scaled& point : benchmark::scaling_of(runs)) {
    fmt::print("{:<7}{:>6} ranks {:>10.4g} s a step {:>10.0f} tokens/s {:>7.1f} %{}\n",
               point.series, point.run->ranks, point.step.median, point.tokens_per_s,
               100 * point.efficiency,
               point.run->shared.empty() ? "" : "   functional, not scaling");
  }
  fmt::print("{}\n", (std::filesystem::path(options.output) / "report.html").string());
}

/// What is missing is named at the end: the others' report is worth having.
void merge(const BenchmarkOptions& options) {
  std::vector<Run> runs;
  std::vector<std::string> causes;
  for (const std::string& directory : options.merge) {
    try {
      for (Run& run : benchmark::read_runs(directory)) runs.push_back(std::move(run));
    } catch (const DataError& error) {
      causes.emplace_back(error.what());
    }
  }
  if (!runs.empty()) write_results(options, runs);
  if (!causes.empty()) throw DataError("--merge: {}", fmt::join(causes, "; "));
}

/// The options given, but for those that the runs of a study have of their own.
std::vector<std::string> passed_on(const OptionTable& table) {
  const std::set<std::string> own{"ranks",      "scaling", "series", "oversubscribe",
                                  "launcher",   "merge",   "output", "plan",
                                  "batch-size", "data",    "threads"};
  std::vector<std::string> words;
  for (const auto& [name, value] : table.values())
    if (table.given(name) && !own.contains(name))
      words.push_back(fmt::format("--{}={}", name, value));
  return words;
}

void run_study(const BenchmarkOptions& options, const OptionTable& table) {
  const std::filesystem::path output = options.output;
  check_place(output);
  make_directories(output);
  const std::vector<std::string> launcher = benchmark::launcher_words(options.launcher),
                                 words = passed_on(table);
  const TrainSettings& settings = *options.settings;
  std::int64_t threads = settings.common.threads;
  if (threads == 0) {
    const auto cores = static_cast<std::int64_t>(affinity_cores().size());
    threads = std::max<std::int64_t>(1, cores / options.ranks.back());
  }
  const bool fixed =
      std::find(options.scaling.begin(), options.scaling.end(), "fixed") != options.scaling.end();
  const std::filesystem::path fixed_data = output / "fixed-partition";
  if (fixed) {
    log::info("benchmark: one cut of the graph for {} parts", options.ranks.back());
    benchmark::write_fixed_partitions(options.data, settings.partition, options.ranks, fixed_data);
  }
  std::vector<Run> runs;
  for (const std::int64_t ranks : options.ranks) {
    for (const std::string& series : options.scaling) {
      const std::int64_t batch = settings.train.batch_size * (series == "weak" ? ranks : 1);
      // Weak scaling's first run is strong scaling's, where that is one rank.
      const auto same = std::find_if(runs.begin(), runs.end(), [&](const Run& run) {
        return run.ranks == ranks && run.batch_size == batch && series != "fixed" &&
               !run.in("fixed");
      });
      if (same != runs.end()) {
        same->series.push_back(series);
        continue;
      }
      const std::filesystem::path directory = output / "runs" / fmt::format("{}-{}", series, ranks);
      std::vector<std::string> own{
          "benchmark",
          fmt::format("--data={}", series == "fixed" ? fixed_data.string() : options.data),
          fmt::format("--output={}", directory.string()),
          fmt::format("--series={}", series),
          fmt::format("--batch-size={}", batch),
          fmt::format("--threads={}", threads)};
      own.insert(own.end(), words.begin(), words.end());
      log::info("benchmark: {} on {} ranks of {} threads, {} examples", series, ranks, threads,
                batch);
      benchmark::run_on_ranks(launcher, ranks, own);
      for (Run& run : benchmark::read_runs(directory)) runs.push_back(std::move(run));
    }
  }
  write_results(options, runs);
}

void run_here(const BenchmarkOptions& options, const OptionTable& table, Job& job) {
  TrainSettings& settings = *options.settings;
  apply_common_options(settings.common, job);
  const PlainPaths plain(settings.plain);
  const bool root = job.world()->rank() == 0;
  std::optional<AtomicDirectory> output;
  std::string scratch;
  job.agree([&] {
    if (!root) return;
    output.emplace(options.output, kSummary);
    scratch = (output->path() / "save").string();
  });
  scratch = job.world()->broadcast_text(scratch, 0, Traffic::control);
  const Workspace workspace(job, options.data, settings.partition, Reuse::same_division,
                            static_cast<int>(settings.tensor_parallel));
  EmbeddingTable embeddings;
  bool bias_columns = false;
  job.agree([&] {
    bias_columns = check_pretrained(options.pretrained, *workspace.dataset);
    embeddings =
        read_embeddings(options.pretrained, workspace.shard->owned(), workspace.dataset->nodes(),
                        Precision::parse(settings.model_config.precision).parameter);
  });
  Recommender model(job, workspace, options.model, settings.model_config, std::move(embeddings),
                    bias_columns);
  model.initialize_from_data();
  release_free_memory();
  Run run = benchmark::measure_run(
      job, model, settings.train,
      {.micro = options.what != "macro",
       .macro = options.what != "micro",
       .repetitions = {static_cast<int>(options.warm_up), static_cast<int>(options.repetitions)},
       .model_directory = options.model,
       .scratch = scratch,
       .version = version_text()});
  job.agree([&] {
    if (!root) return;
    run.series = options.series;
    for (const auto& [name, value] : table.values()) run.setting["options"][name] = value;
    benchmark::write_study(output->path(), {run}, read_plan(options.plan));
    output->commit();
    fmt::print("{}\n", (std::filesystem::path(options.output) / "report.html").string());
  });
}

}  // namespace

OptionTable describe_benchmark() { return table_of<BenchmarkOptions>(); }

int run_benchmark(Job& job, const std::vector<std::string>& arguments) {
  BenchmarkOptions options;
  OptionTable table = options.table();
  job.agree([&] {
    table.parse(arguments);
    check(options, job.world()->size());
  });
  const bool root = job.world()->rank() == 0;
  if (!options.merge.empty()) {
    job.agree([&] {
      if (!root) return;
      check_place(options.output);
      merge(options);
    });
  } else if (!options.ranks.empty()) {
    job.agree([&] { run_study(options, table); });
  } else {
    run_here(options, table, job);
  }
  return 0;
}

}  // namespace graphlora
