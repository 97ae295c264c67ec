// Shapes: A anchors of this rank's examples, S examples of a pack, B examples of the global batch.
#include "train/trainer.hpp"

#include <chrono>
#include <cmath>
#include <deque>
#include <numeric>

#include <torch/csrc/autograd/autograd.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/memory.hpp"
#include "core/profile_range.hpp"
#include "core/progress.hpp"
#include "core/shortcuts.hpp"
#include "dist/communication.hpp"
#include "dist/gradient_sync.hpp"
#include "train/embedding_store.hpp"
#include "train/evaluate.hpp"
#include "train/memory.hpp"
#include "train/metrics_log.hpp"
#include "train/norm_table.hpp"
#include "train/step_plan.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Adds the host's time of its scope to one phase.
class PhaseTimer {
 public:
  PhaseTimer(Phases& phases, const char* name)
      : range_(name), phases_(phases), name_(name), start_(Clock::now()) {}
  ~PhaseTimer() { phases_.add(name_, start_, Clock::now()); }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  ProfileRange range_;
  Phases& phases_;
  const char* name_;
  Clock::time_point start_;
};

/// Position of each scalar in the one all-reduce per step.
enum Scalar : std::int64_t {
  kLoss,
  kTokens,
  kEmbeddingNorm,
  kRatioGraph,
  kRatioLora,
  kInterrupted,
  kWritersDone,
  kWritersFailed,
  kForeignAnchors,
  kSentBytes,
  kScalars = kSentBytes + static_cast<std::int64_t>(kStepTraffic.size())
};

/// Of each kind of kStepTraffic so far, on this rank.
std::array<Communication, kStepTraffic.size()> step_traffic(const ProcessGrid& grid) {
  std::array<Communication, kStepTraffic.size()> traffic;
  for (std::size_t k = 0; k < traffic.size(); ++k)
    traffic[k] = communication_of(grid, kStepTraffic[k]);
  return traffic;
}

/// How many of the nodes' rows this rank fetches from others: the ranks of a replica take an equal
/// share each, see AnchorStage.
std::int64_t foreign_rows(const ProcessGrid& grid, const NodeMap& map,
                          std::span<const std::int64_t> nodes) {
  const auto bound = [&](int t) { return nodes.size() * t / grid.tensor_parallel(); };
  const auto first = bound(grid.tensor_rank()), end = bound(grid.tensor_rank() + 1);
  const auto own = nodes.subspan(first, end - first);
  return std::count_if(own.begin(), own.end(),
                       [&](std::int64_t node) { return map.owner(node) != grid.rank(); });
}

double sum_over(Communicator& ranks, double value) {
  if (ranks.size() == 1) return value;
  const at::Tensor sum = at::full({1}, value, at::kDouble);
  ranks.all_reduce(sum, ReduceOp::sum, Traffic::metrics).wait();
  return sum.item<double>();
}

}  // namespace

Stepper::Stepper(Recommender& model, const TrainConfig& config, std::int64_t steps)
    : model_(model),
      config_(config),
      sampler_(*model.workspace().dataset, model.workspace().shard->cut(), *model.workspace().order,
               config.batch_size, config.seed, config.block, config.max_train_examples),
      schedule_(config.schedule),
      stages_{config.stages, steps < 0 ? sampler_.batches_per_epoch() : steps},
      optimizer_(model.parameters(), config.optimizer),
      sync_(*model.workspace().grid, model.parameters()),
      phases_({"prompts", "graph forward", "LLM forward", "LLM backward", "graph backward",
               "gradient sync", "embedding update", "optimizer"}) {
  schedule_.steps = stages_.steps;
  model_.llm().set_recompute(config_.recompute == "layer");
  if (config_.optimizer.type == "adamw" && !model_.table().exp_avg_nD.defined()) {
    model_.table().exp_avg_nD = at::zeros_like(model_.table().weight_nD);
    model_.table().exp_avg_sq_nD = at::zeros_like(model_.table().weight_nD);
  }
}

StepResult Stepper::step(std::int64_t step, CheckpointWriter::Status writer) {
  const Workspace& workspace = model_.workspace();
  const ProcessGrid& grid = *workspace.grid;
  const Dataset& dataset = *workspace.dataset;
  phases_.set_step(step);
  const auto traffic_before = step_traffic(grid);

  // 1. The global batch, and this replica's share of it.
  StepPlan plan;
  std::vector<Pack> packs;
  std::vector<std::int64_t> anchor_node_A;
  std::vector<std::uint8_t> unknown_A;
  std::int64_t tokens = 0, computed_tokens = 0;
  {
    const PhaseTimer timer(phases_, "prompts");
    plan = plan_step(sampler_, model_.prompts(), dataset, config_.seed, step, grid.replicas(),
                     config_.shared_prefix);
    std::vector<Prompt> prompts;
    std::vector<std::int64_t> prefix_stream;
    for (const std::size_t i : plan.shares[grid.replica()]) {
      prompts.push_back(model_.prompts().build(plan.batch.rows[i], plan.template_B[i]));
      prefix_stream.push_back(plan.prefix_stream_B[i]);
      tokens += plan.length_B[i];
    }
    packs = make_packs(prompts, prefix_stream, config_.micro_batch,
                       config_.shared_prefix ? Sharing::training : Sharing::none);
    for (const Pack& pack : packs) {
      computed_tokens += pack.tokens();
      for (const auto& [node, row] : pack.anchors) {
        anchor_node_A.push_back(node);
        unknown_A.push_back(node < dataset.users()
                                ? user_is_unknown(config_.seed, step, node, config_.unknown_rate)
                                : item_is_unknown(config_.seed, step, row, config_.unknown_rate));
      }
    }
  }

  dataset.release_rows();

  // 2. GNN on the shards under the batch's cut; anchors' rows come in.
  AnchorRows anchors;
  {
    const PhaseTimer timer(phases_, "graph forward");
    anchors = model_.anchors().forward(workspace.shard->cut().training_view(plan.batch.group),
                                       anchor_node_A, unknown_A);
  }

  // 3. Micro-batches through the LLM; the loss is normalized by the global batch's own size.
  const DropoutKey dropout{model_.config().lora.dropout, config_.seed, step};
  const auto batch_examples = static_cast<double>(plan.batch.rows.size());
  at::Tensor loss_sum =
      at::zeros({}, at::dtype(at::kDouble).device(model_.table().weight_nD.device()));
  for (const Pack& pack : packs) {
    at::Tensor loss;
    {
      const PhaseTimer timer(phases_, "LLM forward");
      const at::Tensor score_S = model_.llm().forward(pack, anchors, dropout);
      loss = at::binary_cross_entropy_with_logits(score_S, pack.label_S.to(score_S.options()), {},
                                                  {}, at::Reduction::Sum) /
             batch_examples;
      loss_sum += loss.detach();
    }
    const PhaseTimer timer(phases_, "LLM backward");
    torch::autograd::backward({loss}, {});
  }

  // 4. and 5. Adapters' gradients are reduced while anchors' gradients travel home and through the
  // GNN.
  EmbeddingGradient embedding_gradient;
  double embedding_norm = 0;  // squared
  {
    const PhaseTimer timer(phases_, "graph backward");
    sync_.start({Placement::lora_a_column, Placement::lora_b_column, Placement::lora_a_row,
                 Placement::lora_b_row, Placement::lambda});
    if (is_off(Shortcut::overlap)) sync_.wait();
    embedding_gradient = model_.anchors().backward();
    embedding_norm = embedding_gradient.squared_norm();
  }
  at::Tensor scalars = at::zeros({kScalars + 2 * grid.size()}, at::kDouble);
  {
    const PhaseTimer timer(phases_, "gradient sync");
    sync_.start({Placement::projector, Placement::gnn});
    auto* s = scalars.mutable_data_ptr<double>();
    const at::Tensor ratio = model_.llm().take_ratio_sums();
    // Sums over data, never over world: one tensor rank of a replica speaks for it.
    if (grid.tensor_rank() == 0) {
      s[kLoss] = loss_sum.item<double>();
      s[kTokens] = static_cast<double>(tokens);
      s[kRatioGraph] = ratio[0].item<double>();
      s[kRatioLora] = ratio[1].item<double>();
    }
    s[kEmbeddingNorm] = embedding_norm;
    s[kInterrupted] = Job::interrupted() ? 1 : 0;
    s[kWritersDone] = writer.done ? 1 : 0;
    s[kWritersFailed] = writer.failed ? 1 : 0;
    s[kForeignAnchors] = static_cast<double>(foreign_rows(grid, *workspace.map, anchor_node_A));
    // All of it is under way by now, and counted.
    const auto traffic = step_traffic(grid);
    for (std::size_t k = 0; k < traffic.size(); ++k)
      s[kSentBytes + k] = traffic[k].bytes - traffic_before[k].bytes;
    s[kScalars + grid.rank()] = static_cast<double>(computed_tokens);
    s[kScalars + grid.size() + grid.rank()] = static_cast<double>(peak_memory_bytes());
    grid.world().all_reduce(scalars, ReduceOp::sum, Traffic::metrics).wait();
    sync_.wait();
  }
  const auto* s = scalars.const_data_ptr<double>();

  // 6. Clip by the global norm of what this step trains (E included), then update.
  std::optional<PhaseTimer> timer(std::in_place, phases_, "optimizer");
  double squared_norm = stages_.trains_embedding(step) ? s[kEmbeddingNorm] : 0;
  double sliced_norm = 0;
  std::vector<at::Tensor> squares;  // read at once: on a GPU every reading waits for it
  std::vector<bool> sliced;
  for (const Parameter& parameter : optimizer_.parameters()) {
    if (!stages_.trains(parameter.placement, step) || !parameter.value.grad().defined()) continue;
    squares.push_back(parameter.value.grad().square().sum(at::kDouble));
    sliced.push_back(is_sliced(parameter.placement));
  }
  if (!squares.empty()) {
    const at::Tensor host = at::stack(squares).cpu();
    for (std::size_t i = 0; i < squares.size(); ++i)
      (sliced[i] ? sliced_norm : squared_norm) += host.const_data_ptr<double>()[i];
  }
  squared_norm += sum_over(grid.tensor(), sliced_norm);
  StepResult result;
  result.loss = s[kLoss];
  result.grad_norm = std::sqrt(squared_norm);
  result.examples = static_cast<std::int64_t>(plan.batch.rows.size());
  result.tokens = static_cast<std::int64_t>(s[kTokens]);
  if (s[kRatioLora] > 0) result.graph_ratio = std::sqrt(s[kRatioGraph] / s[kRatioLora]);
  const double rank_tokens = std::accumulate(s + kScalars, s + kScalars + grid.size(), 0.0);
  // The ranks of a replica compute the same tokens.
  result.computed_tokens = static_cast<std::int64_t>(rank_tokens) / grid.tensor_parallel();
  result.token_imbalance = *std::max_element(s + kScalars, s + kScalars + grid.size()) *
                           grid.size() / std::max(1.0, rank_tokens);
  result.peak_memory_bytes = static_cast<std::int64_t>(
      *std::max_element(s + kScalars + grid.size(), s + kScalars + 2 * grid.size()));
  result.cut_group = plan.batch.group;
  result.foreign_anchors = static_cast<std::int64_t>(s[kForeignAnchors]);
  for (std::size_t k = 0; k < result.sent_bytes.size(); ++k)
    result.sent_bytes[k] = static_cast<std::int64_t>(s[kSentBytes + k]);
  result.interrupted = s[kInterrupted] > 0;
  result.writers_done = static_cast<std::int64_t>(s[kWritersDone]);
  result.writers_failed = static_cast<std::int64_t>(s[kWritersFailed]);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    result.divergence = fmt::format(
        "step {}: loss {}, gradient norm {}: training diverged; lower the learning rates or set "
        "--optim.clip; dataset rows of the batch: {}",
        step, result.loss, result.grad_norm, fmt::join(plan.batch.rows, ","));
    result.norms = norm_table(optimizer_.parameters(), model_.table(), embedding_gradient, grid);
    return result;
  }
  if (config_.clip > 0 && result.grad_norm > config_.clip) {
    const double factor = config_.clip / result.grad_norm;
    for (const Parameter& parameter : optimizer_.parameters()) {
      if (parameter.value.grad().defined()) parameter.value.grad().mul_(factor);
    }
    embedding_gradient.scale_(factor);
  }
  const double factor = schedule_.factor(step);
  // E first: its gradient holds the GNN's weights, which the optimizer moves in place.
  timer.emplace(phases_, "embedding update");
  if (stages_.trains_embedding(step)) {
    if (is_off(Shortcut::embedding_update)) {
      at::Tensor whole_nD = at::empty_like(model_.table().weight_nD);
      embedding_gradient.rows(0, whole_nD.size(0), whole_nD);
      embedding_gradient = {};
      embedding_gradient.dense_nD = whole_nD;
    }
    optimizer_.step_embedding(model_.table(), embedding_gradient, stages_.embedding_updates(step),
                              factor);
  }
  timer.emplace(phases_, "optimizer");
  optimizer_.step(factor, [&](const Parameter& parameter) {
    return stages_.trains(parameter.placement, step) ? stages_.updates(parameter.placement, step)
                                                     : 0;
  });
  return result;
}

namespace {

/// Closing table: where the time went, min/avg/max over ranks, and one line of advice. Collective.
void print_time_table(Communicator& world,
                      const std::vector<std::pair<std::string, double>>& phases,
                      const Communication& communication, double total) {
  std::vector<std::pair<std::string, double>> lines = phases;
  lines.emplace_back(
      "evaluation, saving, other",
      total - std::accumulate(phases.begin(), phases.end(), 0.0,
                              [](double sum, const auto& p) { return sum + p.second; }));
  const std::size_t first_summary = lines.size();
  lines.emplace_back("computing", total - communication.exposed);
  lines.emplace_back("communication (hidden and exposed)", communication.seconds);
  lines.emplace_back("waiting for communication", communication.exposed);
  std::vector<double> mine;
  for (const auto& [name, seconds] : lines) mine.push_back(seconds);
  const auto [all, counts] =
      world.all_gather_varying(at::tensor(mine, at::kDouble).unsqueeze(0), Traffic::control);
  if (world.rank() != 0) return;
  std::string table = fmt::format("{:<36}{:>10}{:>10}{:>10}{:>8}\n",
                                  "where the time went (seconds)", "min", "avg", "max", "share");
  double waiting_share = 0, imbalance = 1;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const at::Tensor column = all.select(1, static_cast<std::int64_t>(i));
    const double average = column.mean().item<double>();
    if (i == first_summary) table += "of which\n";
    table += fmt::format("  {:<34}{:>10.1f}{:>10.1f}{:>10.1f}{:>7.0f}%\n", lines[i].first,
                         column.min().item<double>(), average, column.max().item<double>(),
                         100 * average / total);
    if (i == first_summary && average > 0) imbalance = column.max().item<double>() / average;
    if (i + 1 == lines.size()) waiting_share = average / total;
  }
  const char* advice =
      "Most time is computing: more ranks, or a larger --batch-size per rank, will help.";
  if (waiting_share > 0.2 && imbalance > 1.1)
    advice =
        "Ranks wait for the slowest one: check that they have equal cores and a balanced "
        "partition.";
  else if (waiting_share > 0.2)
    advice =
        "Over a fifth of the time is waiting: a larger --batch-size gives each exchange more work "
        "to hide behind.";
  log::print(fmt::format("{}{}\n", table, advice));
}

/// The loop. `writer` is the caller's, so that a failure is told before a save is waited for.
TrainResult run_steps(Job& job, Recommender& model, const TrainConfig& config,
                      const Checkpoint* checkpoint, std::optional<CheckpointWriter>& writer) {
  const Workspace& workspace = model.workspace();
  const Dataset& dataset = *workspace.dataset;
  Communicator& world = workspace.world();
  const bool root = world.rank() == 0;

  std::unique_ptr<Stepper> stepper;
  std::shared_ptr<MetricsLog> metrics;  // also of the save under way
  TrainResult result;
  {
    GraphMemory memory;
    job.agree([&] { memory = predict_memory(model, config.optimizer.type == "adamw"); });
    const std::string text = describe_memory(memory, world);
    if (root) log::info("{}", text);
    report_llm_memory(job, model, config);
  }
  job.agree([&] {
    stepper = std::make_unique<Stepper>(model, config, config.steps);
    if (checkpoint != nullptr) {
      checkpoint->load_moments(stepper->optimizer());
      result.state = checkpoint->state();
    }
    if (!root) return;
    make_directories(config.output);
    if (!config.profile.empty()) const AtomicFile writable(config.profile);
    // A run may have ended between LATEST and BEST.
    mark_best(config.output, result.state.best_step);
    metrics = std::make_shared<MetricsLog>(config.output / "metrics.jsonl", result.state);
  });
  require_gnn_fits(job, model, stepper->sampler());
  release_free_memory();  // what the start has left
  const std::int64_t steps =
      config.steps >= 0 ? config.steps : stepper->sampler().batches_per_epoch();
  const RunIdentity identity{
      config.seed,         config.batch_size,          config.block,     config.max_train_examples,
      config.init_adapter, workspace.partition.groups, course_of(config)};
  std::vector<std::int64_t> valid_rows;
  job.agree([&] {
    if (config.eval_every > 0) valid_rows = dataset.sample(Split::valid, config.eval_examples, 0);
  });
  std::int64_t saved_step = checkpoint != nullptr ? result.state.step : -1;
  writer.emplace(job, world,
                 CheckpointWriter::Options{config.output, config.keep, config.check_lock,
                                           [metrics] { metrics->sync(); }});
  const auto save = [&] {
    if (saved_step == result.state.step) return;
    writer->start(model, stepper->optimizer(), result.state, identity);
    if (is_off(Shortcut::save)) writer->finish();
    saved_step = result.state.step;
  };

  // Scores the validation rows where that is due at the present step and was not done before.
  const auto validate = [&] {
    const std::int64_t step = result.state.step;
    const bool due =
        config.eval_every > 0 && step > 0 && (step % config.eval_every == 0 || step == steps);
    if (!due || result.state.evaluated_step == step || valid_rows.empty()) return;
    const auto eval_start = Clock::now();
    const std::vector<float> scores =
        score_rows(model, valid_rows, config.micro_batch, "validating", /*stops_on_signal=*/true,
                   config.shared_prefix);
    if (scores.empty()) {  // a resumed run does it first
      result.interrupted = true;
      return;
    }
    // One rank computes and decides, and all follow.
    at::Tensor auc = at::full({1}, -1.0, at::kDouble);
    job.agree([&] {
      if (!root) return;
      const Evaluation evaluation = quality_of(dataset, valid_rows, scores);
      auc.fill_(evaluation.all.auc.value_or(-1.0));
      nlohmann::ordered_json line{{"step", step}};
      line.update(evaluation.to_json("valid", seconds_since(eval_start)));
      metrics->write(line);
    });
    world.broadcast(auc, 0, Traffic::control).wait();
    const double now = auc.item<double>();
    result.state.evaluated_step = step;
    saved_step = -1;  // what was saved of this step, if anything, does not know of the validation
    if (now < 0) {
      if (root) log::warn("step {}: the validation rows hold one label only: no AUC", step);
      return;
    }
    const bool better = now > result.state.best_auc;
    result.state.evaluations_since_best = better ? 0 : result.state.evaluations_since_best + 1;
    if (root)
      log::info("step {}: validation AUC {:.4f} on {} rows{}", step, now, valid_rows.size(),
                better ? ", the best so far" : "");
    if (!better) return;
    result.state.best_auc = now;
    result.state.best_step = step;
    save();
  };
  const auto stopped_early = [&] {
    return config.patience > 0 && result.state.evaluations_since_best >= config.patience;
  };

  const auto start = Clock::now();
  const std::int64_t first_step = result.state.step;
  const Communication at_start = communication_of(*workspace.grid);
  Progress progress("training", steps, "steps", root, result.state.step);
  std::deque<double> recent_losses;
  if (!config.profile.empty()) {
    world.barrier();
    stepper->phases().record();
  }
  validate();  // of a run that was interrupted before it could
  while (!result.interrupted && !stopped_early() && result.state.step < steps) {
    const std::int64_t step = result.state.step + 1;
    job.set_step(step);
    const auto step_start = Clock::now();
    const Communication before = communication_of(*workspace.grid);
    const auto traffic_before = step_traffic(*workspace.grid);
    const auto phases_before = stepper->phase_seconds();
    const StepResult r = stepper->step(step, writer->status());
    writer->advance(r.writers_done, r.writers_failed);
    if (!r.divergence.empty()) {
      writer->finish();
      if (root) log::error("step {}: norms where training diverged\n{}", step, r.norms);
      job.agree([&] { throw DataError("{}", r.divergence); });
    }
    const Communication after = communication_of(*workspace.grid);
    const double step_seconds = seconds_since(step_start);
    result.state.step = step;
    recent_losses.push_back(r.loss);
    if (recent_losses.size() > 40) recent_losses.pop_front();
    result.final_loss = std::accumulate(recent_losses.begin(), recent_losses.end(), 0.0) /
                        static_cast<double>(recent_losses.size());
    if (root) {
      nlohmann::ordered_json line{{"step", step},
                                  {"loss", r.loss},
                                  {"lr", stepper->learning_rate(step)},
                                  {"grad_norm", r.grad_norm},
                                  {"graph_ratio", nullptr},
                                  {"examples", r.examples},
                                  {"tokens", r.tokens},
                                  {"computed_tokens", r.computed_tokens},
                                  {"step_seconds", step_seconds},
                                  {"tokens_per_s", static_cast<double>(r.tokens) / step_seconds},
                                  {"communication_seconds", after.seconds - before.seconds},
                                  {"exposed_communication_seconds", after.exposed - before.exposed},
                                  {"peak_memory_bytes", r.peak_memory_bytes},
                                  {"token_imbalance", r.token_imbalance},
                                  {"cut_group", r.cut_group},
                                  {"foreign_anchors", r.foreign_anchors}};
      const auto traffic = step_traffic(*workspace.grid);
      for (std::size_t k = 0; k < traffic.size(); ++k) {
        const char* kind = traffic_name(kStepTraffic[k]);
        line["sent_bytes"][kind] = r.sent_bytes[k];
        line["traffic_seconds"][kind] = traffic[k].seconds - traffic_before[k].seconds;
        line["exposed_traffic_seconds"][kind] = traffic[k].exposed - traffic_before[k].exposed;
      }
      const auto& phases = stepper->phase_seconds();
      for (std::size_t k = 0; k < phases.size(); ++k)
        line["phase_seconds"][phases[k].first] = phases[k].second - phases_before[k].second;
      if (r.graph_ratio >= 0) line["graph_ratio"] = r.graph_ratio;
      metrics->write(line);
      progress.update(step, fmt::format("loss {:.3f}, {:.0f} tokens/s", result.final_loss,
                                        static_cast<double>(r.tokens) / step_seconds));
    }
    result.interrupted = r.interrupted;
    if (!result.interrupted) validate();
    if (config.save_every > 0 && step % config.save_every == 0) save();
  }
  if (root && stopped_early())
    log::info("no better validation AUC in {} evaluations: stopping early", config.patience);
  progress.finish();
  save();
  writer->finish();
  const at::Tensor memory = at::full({1}, proportional_set_bytes(), at::kLong);
  world.all_reduce(memory, ReduceOp::sum, Traffic::metrics).wait();
  if (root)
    log::info("memory of all ranks at the end, the LLM included: {:.3f} GiB",
              static_cast<double>(memory.item<std::int64_t>()) / (1 << 30));
  if (result.state.step > first_step) {
    const Communication at_end = communication_of(*workspace.grid);
    print_time_table(world, stepper->phase_seconds(),
                     {at_end.seconds - at_start.seconds, at_end.exposed - at_start.exposed},
                     seconds_since(start));
  }
  std::string trace;
  if (!config.profile.empty()) trace = stepper->phases().trace(world);
  job.agree([&] {
    writer->require_saved();
    if (!root) return;
    metrics->require_complete();
    if (!trace.empty()) write_file(config.profile, trace);
  });
  return result;
}

}  // namespace

nlohmann::json course_of(const TrainConfig& config) {
  const OptimizerConfig& optim = config.optimizer;
  return {{"steps", config.steps},
          {"train.stages", config.stages},
          {"train.unknown-rate", config.unknown_rate},
          {"optim.type", optim.type},
          {"optim.lr", optim.lr},
          {"optim.lr-lora", optim.lr_lora},
          {"optim.lr-projector", optim.lr_projector},
          {"optim.lr-gnn", optim.lr_gnn},
          {"optim.lr-embedding", optim.lr_embedding},
          {"optim.weight-decay", optim.weight_decay},
          {"optim.schedule", config.schedule.kind},
          {"optim.warmup", config.schedule.warmup},
          {"optim.floor", config.schedule.floor},
          {"optim.clip", config.clip}};
}

TrainResult train(Job& job, Recommender& model, const TrainConfig& config,
                  const Checkpoint* checkpoint) {
  std::optional<CheckpointWriter> writer;
  try {
    return run_steps(job, model, config, checkpoint, writer);
  } catch (...) {
    job.end_if_alone();
    throw;
  }
}

}  // namespace graphlora
