#include "train/memory.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"
#include "core/log.hpp"
#include "core/memory.hpp"
#include "dist/device.hpp"
#include "dist/host_name.hpp"
#include "dist/place.hpp"
#include "model/llm_memory.hpp"
#include "model/packed_weights.hpp"
#include "train/embedding_store.hpp"

namespace graphlora {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr std::int64_t kNodeMapBytes = 8;  // of a node, on every rank

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / kGiB; }

/// What the ranks that share this one's memory (its host's, or its GPU's) are to take, and what is
/// free there.
struct Demand {
  std::int64_t bytes = 0, free = 0;
};

/// `mine`: this rank's bytes. Collective.
Demand demand_of(Job& job, std::int64_t mine) {
  const at::Device device = job.device();
  const auto place =
      device.is_cpu() ? host_name() : fmt::format("{}", fmt::join(gpu_uuid(device), "-"));
  return {sum_over_place(*job.world(), place, mine),
          device.is_cpu() ? available_memory_bytes() : free_gpu_memory_bytes(device)};
}

}  // namespace

GraphMemory predict_memory(Recommender& model, bool moments) {
  const Workspace& workspace = model.workspace();
  const Shard& shard = *workspace.shard;
  GraphMemory memory;
  memory.embeddings = static_cast<std::int64_t>(model.table().weight_nD.nbytes());
  if (moments) memory.moments = 2 * memory.embeddings;
  if (model.config().gnn.type != "none")
    for (int group = 0; group < shard.cut().groups(); ++group)
      shard.plan(shard.cut().training_view(group));
  if (!model.anchors().frontier())
    memory.gnn = model.anchors().predicted_bytes(shard.cut().full_view(), {});
  memory.saving =
      copied_embedding_bytes(workspace.world(), workspace.map->nodes(), model.table(), moments);
  if (workspace.grid->rank() == 0) {
    for (const Parameter& p : model.parameters())
      memory.saving += static_cast<std::int64_t>(p.value.nbytes()) * (moments ? 3 : 1) *
                       (p.slice ? workspace.grid->tensor_parallel() : 1);
  }
  memory.titles = model.prompts().titles().bytes();
  memory.graph = shard.bytes() + kNodeMapBytes * workspace.map->nodes();
  return memory;
}

std::string describe_memory(const GraphMemory& mine, Communicator& world) {
  const at::Tensor sums =
      at::tensor({mine.embeddings, mine.moments, mine.graph, mine.titles, mine.gnn}, at::kLong);
  const at::Tensor most = at::tensor({mine.total(), mine.saving}, at::kLong);
  world.all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
  world.all_reduce(most, ReduceOp::max, Traffic::control).wait();
  const auto of = [](const at::Tensor& bytes) { return gib(bytes.item<std::int64_t>()); };
  return fmt::format(
      "predicted memory: {} bytes over {} ranks (embeddings {:.3f}, moments {:.3f}, graph {:.3f}, "
      "titles {:.3f}, GNN {:.3f} GiB), at most {:.3f} GiB on one rank, beside the LLM; while a "
      "step "
      "is saved at most {:.3f} GiB more",
      sums.sum().item<std::int64_t>(), world.size(), of(sums[0]), of(sums[1]), of(sums[2]),
      of(sums[3]), of(sums[4]), of(most[0]), of(most[1]));
}

void report_llm_memory(Job& job, Recommender& model, const TrainConfig& config) {
  const GraphLora& llm = model.llm();
  const std::int64_t replicas = model.workspace().grid->replicas();
  const std::int64_t examples = (config.batch_size + replicas - 1) / replicas;
  LlmStep step;
  step.tokens = std::min(config.micro_batch, examples * model.config().prompt.max_tokens);
  step.recompute = config.recompute == "layer";
  step.moments = config.optimizer.type == "adamw";
  const Precision& precision = llm.precision();
  step.packed = PackedWeights::serve(llm.precision());
  step.embedding_mapped =
      precision.device.is_cpu() && model.base().stored_type() == precision.activation;
  const auto predict = [&] {
    return predict_llm_memory(llm.config(), llm.slice(), model.config().lora, precision, step);
  };
  const LlmMemory memory = predict();
  // What a rank does not have yet when this is logged.
  const std::int64_t to_come = memory.packed + memory.activations + memory.workspace;
  const Demand demand = demand_of(job, to_come);
  if (job.world()->rank() != 0) return;
  log::info(
      "predicted memory of the LLM: {:.3f} GiB on a rank (weights {:.3f}, packed weights {:.3f}, "
      "token embeddings {:.3f}, adapters {:.3f}, activations of {} tokens {:.3f}, "
      "the layer at work {:.3f} GiB)",
      gib(memory.total()), gib(memory.weights), gib(memory.packed), gib(memory.embedding),
      gib(memory.adapters), step.tokens, gib(memory.activations), gib(memory.workspace));
  if (demand.bytes <= demand.free) return;
  std::string advice = "give a smaller --micro-batch";
  if (!step.recompute) {
    step.recompute = true;
    const LlmMemory less = predict();
    advice += fmt::format(", or --recompute layer, which takes {:.1f} GiB a rank",
                          gib(less.activations + less.workspace));
  }
  if (step.packed)
    advice += fmt::format(", or --train.plain packing, which saves {:.1f} GiB", gib(memory.packed));
  log::warn(
      "a step will take {:.1f} GiB a rank, {:.1f} GiB on this {}, where {:.1f} GiB are free: "
      "{}",
      gib(to_come), gib(demand.bytes), job.device().is_cpu() ? "host" : "GPU", gib(demand.free),
      advice);
}

void require_gnn_fits(Job& job, Recommender& model, const Sampler& sampler) {
  const GnnConfig& gnn = model.config().gnn;
  if (gnn.mode != "auto" || !model.anchors().frontier()) return;
  const Workspace& workspace = model.workspace();
  const ProcessGrid& grid = *workspace.grid;
  const Batch batch = sampler.batch(1);
  // The examples of a replica, whose tensor ranks share their anchors.
  std::vector<std::int64_t> nodes;
  for (auto i = static_cast<std::size_t>(grid.replica()); i < batch.rows.size();
       i += static_cast<std::size_t>(grid.replicas())) {
    nodes.push_back(workspace.dataset->user_node(batch.rows[i]));
    nodes.push_back(workspace.dataset->item_node(batch.rows[i]));
  }
  // Under a window the last group sees the most edges; folds are alike.
  const CutRule& cut = workspace.shard->cut();
  const std::int64_t mine =
      model.anchors().predicted_bytes(cut.training_view(cut.groups() - 1), nodes);
  const Demand demand = demand_of(job, mine);
  job.agree([&] {
    if (demand.bytes <= demand.free) return;
    throw ConfigError(
        "--gnn.type {}: the neighbourhood of a batch would take {:.1f} GiB on this {}, {:.1f} "
        "GiB are free; give --gnn.hops {} (fewer, not exact), a smaller --gnn.hidden, more hosts, "
        "or --gnn.mode frontier to try all the same",
        gnn.type, gib(demand.bytes), job.device().is_cpu() ? "host" : "GPU", gib(demand.free),
        std::max<std::int64_t>(1, gnn.layers - 1));
  });
}

}  // namespace graphlora
