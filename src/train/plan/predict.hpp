// Memory and time of a training step, before it runs.
#pragma once
#include <string>
#include <vector>

#include "train/plan/cluster.hpp"
#include "train/plan/workload.hpp"
#include "train/trainer.hpp"

namespace graphlora::plan {

/// How a run is laid out; every rank owns one part of the graph.
struct Layout {
  std::int64_t ranks = 1, tensor_parallel = 1, batch_size = 128, micro_batch = 4096;
  bool recompute = false;
  std::int64_t replicas() const { return ranks / tensor_parallel; }
};

/// What limits a part of the step, or the whole.
enum class Bound : std::uint8_t { compute, memory, network };
const char* to_string(Bound bound);

struct Part {
  std::string name;
  Bound bound;
  double seconds;
  std::string why;  ///< the numbers that it was computed from
};

struct Prediction {
  Layout layout;
  double step_seconds = 0, tokens_per_step = 0;
  std::vector<Part> parts;  ///< of the step, in its order; their sum is step_seconds
  Bound bound = Bound::compute;
  std::vector<std::pair<std::string, double>> memory;  ///< bytes of the largest rank, by what
  double memory_bytes = 0;
  bool fits = false;
  std::string graph_source;  ///< where the shares of the graph are from
};

/// The model as it is trained.
struct Model {
  LlamaConfig config;
  ModelConfig settings;
  std::int64_t file_bytes = 0;  ///< of the weights: on the CPU the file's map counts
};

/// Packs that so many tokens of prompts of this length make: a pack holds whole prompts.
double packs_of(double tokens, double length, double micro_batch);

/// What may be predicted: throws ConfigError for a GNN other than lightgcn and none.
void require_predictable(const Model& model);

Prediction predict(const Cluster& cluster, const Workload& workload, const Model& model,
                   const TrainConfig& train, const Layout& layout);

/// All layouts of `ranks` ranks over these micro-batches, recompute or not, and tensor groups (of
/// ranks of one node); those that fit first, by time. `tensor_parallel` 0: all that divide.
std::vector<Prediction> search(const Cluster& cluster, const Workload& workload, const Model& model,
                               const TrainConfig& train, std::int64_t ranks,
                               std::int64_t tensor_parallel,
                               std::vector<std::int64_t> micro_batches);

}  // namespace graphlora::plan
