#include <chrono>
#include <optional>
#include <set>
#include <sstream>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "cli/partition_options.hpp"
#include "cli/train_settings.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/memory.hpp"
#include "core/run_lock.hpp"
#include "core/shortcuts.hpp"
#include "dist/rank_map.hpp"
#include "graph/anchor_shares.hpp"
#include "train/embedding_store.hpp"
#include "train/peft_adapter.hpp"
#include "train/pretrain.hpp"
#include "train/trainer.hpp"

namespace graphlora {
namespace {

struct TrainOptions : TrainSettings {
  std::string output, init_adapter, profile;

  OptionTable table() {
    OptionTable table("train", "Trains adapters, projector, GNN and embeddings over a frozen LLM",
                      "Reads a dataset (prepare), an LLM as an HF directory and pretrained "
                      "embeddings (pretrain); writes "
                      "OUTPUT/step-NNNNNN, OUTPUT/LATEST, OUTPUT/BEST and OUTPUT/metrics.jsonl. "
                      "Under mpirun every rank owns "
                      "one part of the graph and trains its share of each batch; the result is the "
                      "same at any number of "
                      "ranks. The baselines are configurations: --gnn.type none is projector-only, "
                      "with --projector none "
                      "LoRA-only.");
    table
        .example(
            "graphlora train --data run/dataset --model run/model --pretrained run/pretrained "
            "--output run/out --steps 200",
            "200 steps on one process")
        .example(
            "mpirun -np 2 graphlora train --config configs/quickstart.ini --data run/dataset "
            "--model run/model "
            "--pretrained run/pretrained --output run/out",
            "two ranks, options from a file")
        .example("graphlora train … --output run/out --resume", "go on from run/out/LATEST");
    table.add_required("Input and output", "data", &data, "DIR: dataset written by prepare")
        .add_required(
            "Input and output", "model", &model,
            "DIR: LLM in Hugging Face format (config.json, model.safetensors, tokenizer.json)")
        .add_required("Input and output", "pretrained", &pretrained,
                      "DIR: embeddings written by pretrain")
        .add_required("Input and output", "output", &output,
                      "DIR: where steps and metrics.jsonl go")
        .add("Input and output", "resume", &train.resume,
             "continue from OUTPUT/LATEST, or start fresh if there is none; a damaged step is "
             "passed "
             "over for the one before")
        .add("Input and output", "profile", &profile,
             "FILE: when each rank was in which phase of which step, for chrome://tracing or "
             "ui.perfetto.dev; empty: not recorded");
    add_step_options(table);
    add_common_options(table, common, Computes::on_any_device);
    return table;
  }

  void add_step_options(OptionTable& table) {
    table
        .add("Training", "steps", &train.steps,
             "steps to train; -1: one epoch, 0: write step-000000 only",
             in_range(train.steps, -1, 1LL << 40))
        .add("Training", "batch-size", &train.batch_size, "examples of a step over all ranks",
             in_range(train.batch_size, 1, 1LL << 30))
        .add("Training", "micro-batch", &train.micro_batch,
             "tokens that go through the LLM at a time: bounds the memory",
             in_range(train.micro_batch, 1, 1LL << 30))
        .add("Training", "recompute", &train.recompute,
             "none; layer: keep only each layer's input and compute the layer again in the "
             "backward, which takes about half as much time again and a fraction of the memory",
             one_of(train.recompute, {"none", "layer"}))
        .add("Training", "max-train-examples", &train.max_train_examples,
             "use only so many training rows (a fixed sample); 0: all",
             in_range(train.max_train_examples, 0, 1LL << 40))
        .add("Training", "train.stages", &train.stages,
             "adapter, projector, joint: what trains, in equal shares of the steps")
        .add("Training", "train.unknown-rate", &train.unknown_rate,
             "share of anchors whose embedding is zeroed in training, so that cold users are a "
             "case the model has seen",
             in_range(train.unknown_rate, 0, 1))
        .add("Training", "train.block", &train.block,
             "rows of one user that stay together in a batch", in_range(train.block, 1, 1LL << 20))
        .add("Training", "train.shared-prefix", &shared_prefix,
             "on: what examples of a micro-batch begin with in common (one user, one history) goes "
             "through the LLM once, also when validating; off: every prompt by itself",
             one_of(shared_prefix, {"on", "off"}))
        .add("Training", "train.plain", &plain,
             "shortcuts to leave out, each for its plain path with the same result to rounding "
             "(docs/performance.md): attention, norms, rotary, swiglu, adapters, graph-sums, "
             "optimizer, attention-tiles, packing, products, residual, last-layer, backward, "
             "embedding-update, overlap, save, or all")
        .add("Training", "tensor-parallel", &tensor_parallel,
             "ranks of one host that share a replica of the LLM, at most one per key/value group; "
             "the "
             "others are replicas, each with its share of the batch",
             in_range(tensor_parallel, 1, 1 << 16));
    table
        .add("Saving and validating", "save-every", &train.save_every,
             "steps between checkpoints; 0: at the end and when validation improved",
             in_range(train.save_every, 0, 1LL << 40))
        .add("Saving and validating", "keep", &train.keep,
             "newest steps to keep (BEST is never deleted); 0: all",
             in_range(train.keep, 0, 1 << 20))
        .add("Saving and validating", "eval-every", &train.eval_every,
             "steps between validations; 0: never", in_range(train.eval_every, 0, 1LL << 40))
        .add("Saving and validating", "eval-examples", &train.eval_examples,
             "validation rows scored (a fixed sample); 0: all",
             in_range(train.eval_examples, 0, 1LL << 40))
        .add("Saving and validating", "train.patience", &train.patience,
             "stop after so many validations without a better AUC; 0: never",
             in_range(train.patience, 0, 1 << 20));
    LoraConfig& lora = model_config.lora;
    table
        .add("Adapter", "lora.rank", &lora.rank, "rank r of the low-rank path, also the width of z",
             in_range(lora.rank, 1, kMaxLoraRank))
        .add("Adapter", "lora.alpha", &lora.alpha, "the adapter's output is scaled by alpha/rank",
             in_range(lora.alpha, 0, kMaxLoraAlpha))
        .add("Adapter", "lora.dropout", &lora.dropout, "dropout on the adapter's input",
             in_range(lora.dropout, 0, 0.99))
        .add("Adapter", "lora.targets", &lora.targets,
             "linears with an adapter: q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj")
        .add("Adapter", "init-adapter", &init_adapter,
             "DIR: a LoRA adapter as PEFT saves it, to start from; its rank, alpha and targets "
             "hold where they are not given (and must be the same where they are). With --resume "
             "the run's own last step wins");
    table
        .add("Graph", "gnn.type", &model_config.gnn.type,
             "lightgcn, ngcf, gcn, graphsage, gat, or none for no graph injection",
             one_of(model_config.gnn.type, kGnnTypes))
        .add("Graph", "gnn.layers", &model_config.gnn.layers,
             "propagations over the graph; -1: 3 for lightgcn and ngcf, 2 for the others, which "
             "have "
             "no other number",
             in_range(model_config.gnn.layers, -1, 64))
        .add("Graph", "gnn.hidden", &model_config.gnn.hidden,
             "width between the layers (not of lightgcn); 0: the embeddings'",
             in_range(model_config.gnn.hidden, 0, kMaxGnnHidden))
        .add("Graph", "gnn.heads", &model_config.gnn.heads, "attention heads of gat",
             in_range(model_config.gnn.heads, 1, kMaxGnnHeads))
        .add("Graph", "gnn.mode", &model_config.gnn.mode,
             "full: every step computes all nodes; frontier: only the neighbourhood of the batch, "
             "with the same result; auto: full for lightgcn, frontier for the others",
             one_of(model_config.gnn.mode, {"auto", "full", "frontier"}))
        .add("Graph", "gnn.hops", &model_config.gnn.hops,
             "edges that a frontier reaches in training; 0: one per layer, which is exact; fewer "
             "need "
             "less memory (evaluation is always exact)",
             in_range(model_config.gnn.hops, 0, 64))
        .add(
            "Graph", "gnn.init", &model_config.gnn.init,
            "start of lightgcn's last layer: pca (leading directions of the propagated embeddings) "
            "or random",
            one_of(model_config.gnn.init, {"pca", "random"}))
        .add("Graph", "inject.layers", &model_config.inject_layers,
             "LLM layers where z enters: middle, all, none or numbers like 3,15")
        .add("Graph", "inject.lambda-lora", &lora.lambda_lora,
             "weight of A·x at the anchors of an injection layer",
             in_range(lora.lambda_lora, -1e3, 1e3))
        .add("Graph", "inject.lambda-gnn", &lora.lambda_gnn, "weight of z there",
             in_range(lora.lambda_gnn, -1e3, 1e3))
        .add("Graph", "inject.learn-lambda", &lora.learn_lambda, "train both weights");
    add_partition_options(table, "Graph", partition);
    table
        .add("Graph", "projector", &model_config.projector,
             "mlp, or none for no projected embeddings",
             one_of(model_config.projector, {"mlp", "none"}))
        .add("Graph", "projector.middle", &model_config.projector_middle,
             "width of its middle layer; 0: ten times the embeddings'",
             in_range(model_config.projector_middle, 0, 1 << 20));
    OptimizerConfig& optim = train.optimizer;
    table
        .add("Optimizer", "optim.type", &optim.type, "adamw or sgd",
             one_of(optim.type, {"adamw", "sgd"}))
        .add("Optimizer", "optim.lr", &optim.lr, "learning rate of all that has no own one below",
             in_range(optim.lr, 0, 1e3))
        .add("Optimizer", "optim.lr-lora", &optim.lr_lora, "of the adapters; -1: optim.lr",
             in_range(optim.lr_lora, -1, 1e3))
        .add("Optimizer", "optim.lr-projector", &optim.lr_projector,
             "of the projector; -1: optim.lr", in_range(optim.lr_projector, -1, 1e3))
        .add("Optimizer", "optim.lr-gnn", &optim.lr_gnn, "of the GNN; -1: optim.lr",
             in_range(optim.lr_gnn, -1, 1e3))
        .add("Optimizer", "optim.lr-embedding", &optim.lr_embedding,
             "of E; -1: optim.lr, 0: E stays as pretrained", in_range(optim.lr_embedding, -1, 1e3))
        .add("Optimizer", "optim.weight-decay", &optim.weight_decay,
             "decoupled decay of weights (not of biases and E)",
             in_range(optim.weight_decay, 0, 10))
        .add("Optimizer", "optim.schedule", &train.schedule.kind,
             "cosine (with warm-up) or constant",
             one_of(train.schedule.kind, {"cosine", "constant"}))
        .add("Optimizer", "optim.warmup", &train.schedule.warmup, "steps of linear warm-up",
             in_range(train.schedule.warmup, 0, 1LL << 40))
        .add("Optimizer", "optim.floor", &train.schedule.floor,
             "share of the learning rate the cosine ends at", in_range(train.schedule.floor, 0, 1))
        .add("Optimizer", "optim.clip", &train.clip,
             "greatest global gradient norm; 0: no clipping", in_range(train.clip, 0, 1e9));
    table
        .add("Prompt", "prompt.templates", &templates,
             "FILE: prompt templates; empty: the built-in ones")
        .add("Prompt", "prompt.history", &model_config.prompt.history, "liked titles shown at most",
             in_range(model_config.prompt.history, 0, 1 << 16))
        .add("Prompt", "prompt.max-tokens", &model_config.prompt.max_tokens,
             "longest prompt; the oldest titles are dropped first",
             in_range(model_config.prompt.max_tokens, 1, 1 << 20))
        .add("Prompt", "prompt.yes", &model_config.prompt.yes,
             "answer for liked: a single token in its context")
        .add("Prompt", "prompt.no", &model_config.prompt.no, "answer for not liked")
        .add("Prompt", "score", &model_config.score,
             "margin: logit(Yes) − logit(No); yes: logit(Yes) alone",
             one_of(model_config.score, {"margin", "yes"}));
  }
};

void check(const TrainSettings& options) {
  const TrainConfig& train = options.train;
  if (train.stages.empty())
    throw ConfigError("--train.stages: name at least one of adapter, projector, joint");
  for (const std::string& stage : train.stages) {
    if (stage != "adapter" && stage != "projector" && stage != "joint") {
      throw ConfigError("--train.stages {}: must be adapter, projector or joint", stage);
    }
  }
  if (options.model_config.gnn.type == "gat" && options.partition.hubs != "0") {
    throw ConfigError(
        "--partition.hubs {}: gat cannot have hubs, since its softmax needs all of a node's edges "
        "in one place",
        options.partition.hubs);
  }
}

void check_output(const TrainOptions& options) {
  if (holds_run(options.output) && !options.train.resume) {
    throw ConfigError(
        "--output {}: already holds a run; give --resume to continue it, or another directory",
        options.output);
  }
}

/// Shares of anchors with edges in training and at test, as the partition has counted them, with a
/// warning where they differ much.
void report_anchor_shares(const std::filesystem::path& partition, const CutRule& cut) {
  const auto path = partition / "partition.json";
  AnchorShares shares;
  try {
    shares = anchor_shares_from_json(read_json(path).at("anchor_shares"));
  } catch (const std::exception& error) {
    throw DataError("{}: {}; rebuild it with graphlora partition", path.string(), error.what());
  }
  const AnchorShare train = total(shares.train);
  log::info(
      "rows with an edge at the user, item: {:.1f} %, {:.1f} % in training (--graph.cut {}); "
      "{:.1f} %, {:.1f} % at test",
      100 * train.user(), 100 * train.item(), to_string(cut.kind()), 100 * shares.test.user(),
      100 * shares.test.item());
  const std::string warning = anchor_share_warning(train, shares.test, cut);
  if (!warning.empty()) log::warn("{}", warning);
}

/// Where the ranks of a job run, if there are several. Collective.
void report_places(Job& job) {
  if (job.world()->size() == 1) return;
  const std::vector<RankPlace> places = gather_rank_map(job);
  if (job.world()->rank() != 0) return;
  std::istringstream lines(describe_rank_map(places));
  for (std::string line; std::getline(lines, line);) log::info("{}", line);
}

/// What an adapter that a run starts from settles.
struct AdapterShape {
  std::int64_t rank;
  double alpha;
  std::vector<std::string> targets;
};

/// Takes it over from the adapter in `source`. Throws ConfigError where something else was asked
/// for.
void take_adapter(const OptionTable& table, const AdapterShape& adapter, const std::string& source,
                  LoraConfig& lora) {
  const auto require = [&](const char* option, const auto& given, const auto& its, bool same) {
    if (table.given(option) && !same) {
      throw ConfigError(
          "--{} {}: the adapter in {} has {}; leave the option out or start from another adapter",
          option, given, source, its);
    }
  };
  require("lora.rank", lora.rank, adapter.rank, lora.rank == adapter.rank);
  require("lora.alpha", lora.alpha, adapter.alpha, lora.alpha == adapter.alpha);
  const std::set<std::string> asked(lora.targets.begin(), lora.targets.end()),
      its(adapter.targets.begin(), adapter.targets.end());
  require("lora.targets", fmt::format("{}", fmt::join(lora.targets, ",")),
          fmt::format("{}", fmt::join(adapter.targets, ",")), asked == its);
  lora.rank = adapter.rank;
  lora.alpha = adapter.alpha;
  lora.targets = adapter.targets;
}

}  // namespace

std::shared_ptr<TrainSettings> add_training_options(OptionTable& table) {
  auto options = std::make_shared<TrainOptions>();
  options->add_step_options(table);
  return options;
}

void settle(TrainSettings& options) {
  check(options);
  const PlainPaths known(options.plain);  // or throws
  options.train.seed = static_cast<std::uint64_t>(options.common.seed);
  options.model_config.seed = options.train.seed;
  options.model_config.precision = options.common.precision;
  options.model_config.prompt.templates = options.templates;
  options.train.shared_prefix = options.shared_prefix == "on";
  options.partition.seed = options.common.seed;
}

OptionTable describe_train() { return table_of<TrainOptions>(); }

int run_train(Job& job, const std::vector<std::string>& arguments) {
  job.catch_signals();
  TrainOptions options;
  OptionTable table = options.table();
  job.agree([&] {
    table.parse(arguments);
    settle(options);
    check_output(options);
  });
  apply_common_options(options.common, job);
  const PlainPaths plain(options.plain);
  report_places(job);
  TrainConfig& config = options.train;
  config.output = options.output;
  config.profile = options.profile;
  ModelConfig& model_config = options.model_config;

  const bool root = job.world()->rank() == 0;
  std::optional<RunLock> lock;
  std::optional<Checkpoint> checkpoint;
  std::optional<PeftAdapter> init_adapter;
  std::vector<DamagedStep> damaged;
  std::string resumed_step;
  const auto another_cut = [&] {
    return ConfigError("--resume: --graph.cut or --graph.groups differ from the run in {}",
                       options.output);
  };
  job.agree([&] {
    if (!root) return;
    lock.emplace(config.output);
    config.check_lock = [&lock] { lock->check(); };
    if (!config.resume) return;
    const ResumePoint point = find_resume_point(config.output);
    damaged = point.damaged;
    for (const auto& [path, cause] : damaged)
      log::warn("--resume passes over {}: {}", path.string(), cause);
    if (point.step) resumed_step = point.step->string();
    if (!point.step) log::info("{} holds no step: starting from the beginning", options.output);
  });
  resumed_step = job.world()->broadcast_text(resumed_step, 0, Traffic::control);
  job.agree([&] {
    if (!resumed_step.empty())
      checkpoint.emplace(resumed_step, /*prefer_latest=*/true, /*verify=*/false);
    const AdapterSource first = checkpoint ? checkpoint->init_adapter() : AdapterSource{};
    // The adapter that a resumed run started from is no longer needed; another one is refused.
    if (!options.init_adapter.empty() && options.init_adapter != first.path) {
      init_adapter.emplace(options.init_adapter);
      take_adapter(table, {init_adapter->rank(), init_adapter->alpha(), init_adapter->targets()},
                   options.init_adapter, model_config.lora);
      config.init_adapter = {options.init_adapter, init_adapter->fingerprint()};
    }
    if (!checkpoint) return;
    if (!first.path.empty()) {
      const LoraConfig lora = checkpoint->model_config().lora;
      take_adapter(table, {lora.rank, lora.alpha, lora.targets}, first.path, model_config.lora);
    }
    checkpoint->require_identity({config.seed, config.batch_size, config.block,
                                  config.max_train_examples, config.init_adapter,
                                  options.partition.groups, course_of(config)});
    // On one rank: these read, or hash, more than the others need.
    if (root) {
      checkpoint->require_dataset(Dataset(options.data, DatasetCheck::shapes));
      checkpoint->require_base(HfCheckpoint(options.model));
      for (const std::string& change : checkpoint->changed_course(course_of(config)))
        log::warn("--resume: {}: the run goes on with it", change);
    }
    config.init_adapter = checkpoint->init_adapter();
    // All of this before the partition is cut anew.
    const std::string cut = to_string(checkpoint->cut());
    if ((options.partition.cut != "auto" && options.partition.cut != cut) ||
        (cut == "fold" && options.partition.groups != checkpoint->groups()))
      throw another_cut();
  });

  const auto start = std::chrono::steady_clock::now();
  const Workspace workspace(job, options.data, options.partition,
                            // A run goes on with the partition that it has.
                            checkpoint ? Reuse::same_cut : Reuse::same_division,
                            static_cast<int>(options.tensor_parallel));
  std::vector<std::pair<std::string, double>> seconds = workspace.seconds;
  const auto seconds_so_far = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  double done = seconds_so_far();
  const auto lap = [&](const char* what) {
    const double now = seconds_so_far();
    seconds.emplace_back(what, now - std::exchange(done, now));
  };

  job.agree([&] {
    if (!root) return;
    const CutRule& cut = workspace.shard->cut();
    const auto directory = partition_directory(*workspace.dataset, workspace.world().size());
    report_anchor_shares(directory, cut);
    // Through maps of their own: what the check touches goes with them.
    const Dataset dataset(options.data, DatasetCheck::shapes);
    TrainingOrder(directory, dataset, cut).check();
  });
  lap("order");

  EmbeddingTable embeddings;
  bool bias_columns = false;
  job.agree([&] {
    std::filesystem::path source = options.pretrained;
    if (checkpoint) {
      if (checkpoint->cut() != workspace.shard->cut().kind() ||
          checkpoint->groups() != workspace.shard->cut().groups())
        throw another_cut();
      source = checkpoint->directory();
      bias_columns = checkpoint->bias_columns();
    } else {
      bias_columns = check_pretrained(source, *workspace.dataset);
    }
    embeddings = read_embeddings(source, workspace.shard->owned(), workspace.dataset->nodes(),
                                 Precision::parse(model_config.precision).parameter);
  });
  lap("embeddings");
  Recommender model(job, workspace, options.model, model_config, std::move(embeddings),
                    bias_columns);
  lap("model");
  if (checkpoint) {
    job.agree([&] {
      checkpoint->require_model(model);
      checkpoint->load_parameters(model);
    });
    if (root) log::info("resuming {} after step {}", options.output, checkpoint->state().step);
  } else {
    model.initialize_from_data();
    if (init_adapter) {
      job.agree([&] { init_adapter->load(model.parameters()); });
      if (root) {
        log::info("starting from the adapter in {} (rank {}, alpha {}, {})", options.init_adapter,
                  init_adapter->rank(), init_adapter->alpha(),
                  fmt::join(init_adapter->targets(), ","));
      }
    }
  }
  release_free_memory();  // what the start took and gave back
  lap("initial weights");
  if (root) {
    std::string parts;
    for (const auto& [what, took] : seconds)
      parts += fmt::format("{}{} {:.1f}", parts.empty() ? "" : ", ", what, took);
    log::info("ready after {:.1f} s ({})", done, parts);
  }

  job.agree([&] {
    if (root) tidy_output(config.output, damaged);
  });
  const TrainResult result = train(job, model, config, checkpoint ? &*checkpoint : nullptr);
  if (root) {
    fmt::print("{} after step {}: {}\n", result.interrupted ? "interrupted" : "trained",
               result.state.step, step_directory(config.output, result.state.step).string());
    if (result.state.best_step >= 0) {
      fmt::print("best validation AUC {:.4f} at step {}\n", result.state.best_auc,
                 result.state.best_step);
    }
  }
  return static_cast<int>(result.interrupted ? ExitCode::interrupted : ExitCode::ok);
}

}  // namespace graphlora
