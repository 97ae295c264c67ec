// The training loop. docs/architecture.md walks through one step.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "dist/gradient_sync.hpp"
#include "train/checkpoint_writer.hpp"
#include "train/sampler.hpp"
#include "train/schedule.hpp"
#include "train/trace.hpp"

namespace graphlora {

struct TrainConfig {
  std::filesystem::path output;
  std::int64_t steps = -1;          ///< -1: one epoch
  std::int64_t batch_size = 128;    ///< examples, global
  std::int64_t micro_batch = 4096;  ///< tokens of a pack
  std::int64_t save_every = 0;      ///< 0: only at the end and when validation improved
  std::int64_t eval_every = 0;      ///< 0: never
  std::int64_t eval_examples = 1000;
  std::int64_t patience = 0;  ///< evaluations without a better validation AUC; 0: never stop early
  std::int64_t keep = 2;
  std::int64_t max_train_examples = 0;  ///< 0: all
  bool resume = false;
  std::filesystem::path profile = {};  ///< where a trace of all ranks' phases goes; empty: nowhere
  std::function<void()> check_lock = {};  ///< throws where the output is another run's by now
  AdapterSource init_adapter = {};        ///< what the adapters' first values are; for the manifest
  std::string recompute = "none";         ///< none | layer, see GraphLora::set_recompute
  std::uint64_t seed = 1;
  std::vector<std::string> stages{"joint"};  ///< adapter, projector, joint; see Stages
  double unknown_rate = 0.05;
  std::int64_t block = 1;
  bool shared_prefix = true;  ///< what examples of a pack begin with in common is computed once
  double clip = 1;            ///< 0: off
  OptimizerConfig optimizer;
  Schedule schedule;
};

/// Optimizer, schedule and stages, by option.
nlohmann::json course_of(const TrainConfig& config);

struct TrainResult {
  TrainingState state;
  bool interrupted = false;
  double final_loss = 0;  ///< mean of the last steps
};

/// Runs the loop to its end, its early stop or a signal; writes steps, LATEST, BEST and
/// metrics.jsonl under config.output. With `checkpoint` it continues from there. A step that can't
/// be saved is a warning, but an error at the end if it is the last one. Collective; errors are
/// agreed.
TrainResult train(Job& job, Recommender& model, const TrainConfig& config,
                  const Checkpoint* checkpoint);

/// What travels for a step's result; beside it go requests for rows (control) and the step's
/// scalars (metrics).
inline constexpr std::array kStepTraffic{Traffic::parameters, Traffic::activations, Traffic::halo,
                                         Traffic::hubs, Traffic::anchors};

/// What one step computed; exposed so that tests can compare grids step by step.
struct StepResult {
  double loss = 0, grad_norm = 0, graph_ratio = -1;
  std::int64_t examples = 0, peak_memory_bytes = 0;
  std::int64_t tokens = 0;           ///< of the prompts
  std::int64_t computed_tokens = 0;  ///< of the packs: shared beginnings count once
  double token_imbalance = 1;        ///< most computed tokens of a rank over the mean
  int cut_group = 0;                 ///< of the batch
  std::int64_t foreign_anchors = 0;  ///< rows of E and z fetched from other ranks, by all
  /// Bytes that all ranks handed to operations of the kinds of kStepTraffic, see TrafficCounter.
  std::array<std::int64_t, kStepTraffic.size()> sent_bytes{};
  bool interrupted = false;
  std::int64_t writers_done = 0, writers_failed = 0;  ///< ranks; see CheckpointWriter::advance
  std::string divergence;  ///< why this step moved nothing: a loss or norm that is not finite
  std::string norms;       ///< then, what norm_table says
};

/// One training step after another over a model; holds the sampler, the optimizer and the gradient
/// sync.
class Stepper {
 public:
  Stepper(Recommender& model, const TrainConfig& config, std::int64_t steps);
  /// Collective; the result is the same on every rank but for the time it took. `writer`: what this
  /// rank tells the others about the save under way.
  StepResult step(std::int64_t step, CheckpointWriter::Status writer = {});
  Optimizer& optimizer() { return optimizer_; }
  GradientSync& gradient_sync() { return sync_; }
  const Sampler& sampler() const { return sampler_; }
  double learning_rate(std::int64_t step) const {
    return config_.optimizer.lr * schedule_.factor(step);
  }
  /// Seconds spent so far in each phase of a step, by name.
  const std::vector<std::pair<std::string, double>>& phase_seconds() const {
    return phases_.seconds();
  }
  Phases& phases() { return phases_; }

 private:
  Recommender& model_;
  const TrainConfig& config_;
  Sampler sampler_;
  Schedule schedule_;
  Stages stages_;
  Optimizer optimizer_;
  GradientSync sync_;
  Phases phases_;
};

}  // namespace graphlora
