#include "train/benchmark/measure_run.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <fstream>
#include <memory>

#include "core/log.hpp"
#include "core/memory.hpp"
#include "model/llm_flops.hpp"
#include "model/llm_memory.hpp"
#include "model/packed_weights.hpp"
#include "train/benchmark/environment.hpp"
#include "train/benchmark/macro.hpp"
#include "train/benchmark/micro.hpp"
#include "train/benchmark/sharing.hpp"
#include "train/memory.hpp"

namespace graphlora::benchmark {
namespace {

constexpr std::int64_t kLargestMessage = 1 << 25;

/// From now on peak_memory_bytes() counts anew; where the kernel refuses it stays the whole run's.
void forget_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

/// What a rank's steps held.
struct Held {
  std::int64_t activations = 0;  ///< predicted, the layer at work included
  std::int64_t program = 0;      ///< all that no prediction knows of: the program, its libraries
};

Held held(Recommender& model, const TrainConfig& config, std::int64_t peak, double tokens,
          const std::filesystem::path& directory) {
  const GraphLora& llm = model.llm();
  const bool moments = config.optimizer.type == "adamw", cpu = llm.precision().device.is_cpu();
  const auto replicas = static_cast<double>(model.workspace().grid->replicas());
  const LlmStep step{.tokens = static_cast<std::int64_t>(
                         std::min(static_cast<double>(config.micro_batch), tokens / replicas)),
                     .recompute = config.recompute == "layer",
                     .packed = PackedWeights::serve(llm.precision()),
                     .moments = moments,
                     .embedding_mapped = cpu};
  const LlmMemory memory =
      predict_llm_memory(llm.config(), llm.slice(), model.config().lora, llm.precision(), step);
  std::int64_t known = memory.total() + predict_memory(model, moments).total();
  for (const Parameter& parameter : model.parameters())
    if (parameter.placement == Placement::projector || parameter.placement == Placement::gnn)
      known += 4 * static_cast<std::int64_t>(parameter.value.nbytes());
  if (cpu) {
    for (const auto& file : std::filesystem::directory_iterator(directory))
      if (file.path().extension() == ".safetensors")
        known += static_cast<std::int64_t>(file.file_size());
  }
  return {memory.activations + memory.workspace, peak - known};
}

/// Sizes that predictions start from.
nlohmann::ordered_json sizes_of(Recommender& model) {
  const Workspace& workspace = model.workspace();
  const LlamaConfig& c = model.llm().config();
  const Shard& shard = *workspace.shard;
  const auto plan = shard.plan(shard.cut().full_view());
  Communicator& world = workspace.world();
  const auto of_ranks = [&](std::int64_t own) { return world.all_gather(own, Traffic::control); };
  const auto owned = of_ranks(plan->owned);
  std::int64_t dense = 0;
  for (const Parameter& parameter : model.parameters()) dense += parameter.value.numel();
  return {{"dataset_fingerprint", workspace.dataset->fingerprint()},
          {"model_fingerprint", model.base().fingerprint()},
          {"users", workspace.dataset->users()},
          {"items", workspace.dataset->items()},
          {"hidden", c.hidden_size},
          {"layers", c.layers},
          {"rank", model.config().lora.rank},
          {"gnn_layers", model.gnn() == nullptr ? 0 : model.gnn()->layers()},
          {"embedding_width", model.table().weight_nD.size(1)},
          {"dense_parameters", dense},
          {"flops_per_token", linear_flops(c, model.llm().slice())},
          {"most_owned", *std::max_element(owned.begin(), owned.end())},
          {"owned", owned},
          {"entries", of_ranks(plan->entries)},
          {"halo", of_ranks(plan->halo)},
          {"sent", of_ranks(plan->send_rows.cpu().size(0))}};
}

}  // namespace

Run measure_run(Job& job, Recommender& model, const TrainConfig& config,
                const RunOptions& options) {
  const Workspace& workspace = model.workspace();
  Communicator& world = workspace.world();
  const bool root = world.rank() == 0;
  std::unique_ptr<Stepper> stepper;
  job.agree([&] { stepper = std::make_unique<Stepper>(model, config, config.steps); });
  release_free_memory();

  Run run;
  run.ranks = world.size();
  run.tensor_parallel = workspace.grid->tensor_parallel();
  run.batch_size = config.batch_size;
  run.micro_batch = config.micro_batch;
  run.threads = at::get_num_threads();
  std::vector<Measurement> own;
  const auto add = [&](std::vector<Measurement> more) {
    own.insert(own.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
  };
  const auto announce = [&](const char* what) {
    if (root) log::info("benchmark: {}", what);
  };
  if (options.macro) {
    announce("training steps");
    forget_peak_memory();
    StepsRun steps = measure_steps(job, options.repetitions, model, *stepper);
    run.memory_P = world.all_gather(peak_memory_bytes(), Traffic::control);
    run.tokens_per_step = static_cast<double>(steps.tokens) / options.repetitions.count;
    run.token_imbalance = steps.token_imbalance;
    add(std::move(steps.measurements));
  }
  if (options.micro) {
    const Repetitions& repetitions = options.repetitions;
    announce("products of the model's shapes");
    add(measure_matrices(job, repetitions, model, config.micro_batch));
    announce("the decoder");
    add(measure_decoder(job, repetitions, model, config));
    announce("the graph, messages, loading and saving");
    add(measure_graph(job, repetitions, model));
    add(measure_collectives(job, repetitions, kLargestMessage));
    add(measure_loading(job, repetitions, model, config, options.model_directory));
    add(measure_save(job, repetitions, model, stepper->optimizer(), options.scratch));
  }
  run.setting["sizes"] = sizes_of(model);
  if (options.macro) {
    Held own;
    job.agree([&] {
      own = held(model, config, run.memory_P[static_cast<std::size_t>(world.rank())],
                 run.tokens_per_step, options.model_directory);
    });
    const auto all = world.all_gather(own.program, Traffic::control);
    run.setting["sizes"]["activation_bytes"] = own.activations;
    run.setting["sizes"]["program_bytes"] = *std::max_element(all.begin(), all.end());
  }
  run.measurements = gather(world, own);
  const std::vector<RankPlace> places = gather_rank_map(job);
  run.shared = what_is_shared(job, places);
  run.environment = environment(job, places, options.version);
  return run;
}

}  // namespace graphlora::benchmark
