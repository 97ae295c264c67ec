// Shapes: T tokens, I inputs, O outputs, m sources, n owned rows, C columns, A anchors.
#include "train/benchmark/micro.hpp"

#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <numeric>

#include "core/error.hpp"
#include "data/pack.hpp"
#include "data/tokenizer.hpp"
#include "graph/halo_exchange.hpp"
#include "graph/row_sum.hpp"
#include "train/step_plan.hpp"

namespace graphlora::benchmark {
namespace {

constexpr std::int64_t kFewestTokens = 64, kTitles = 2000;
constexpr double kFlopsOfProduct = 2;

const char* type_name(at::ScalarType type) { return type == at::kBFloat16 ? "bf16" : "fp32"; }

/// 64, 256, 1024 … and `tokens` itself.
std::vector<std::int64_t> token_counts(std::int64_t tokens) {
  std::vector<std::int64_t> counts;
  for (std::int64_t t = kFewestTokens; t < tokens; t *= 4) counts.push_back(t);
  counts.push_back(tokens);
  return counts;
}

/// The first batches' prompts, and the dropout stream of each one's prefix; the same on all ranks.
struct Prompts {
  std::vector<Prompt> prompts;
  std::vector<std::int64_t> prefix_stream;
};

Prompts first_prompts(Recommender& model, const Sampler& sampler, const TrainConfig& config,
                      std::int64_t step) {
  const Dataset& dataset = *model.workspace().dataset;
  const StepPlan plan = plan_step(sampler, model.prompts(), dataset, config.seed, step,
                                  /*replicas=*/1, config.shared_prefix);
  Prompts result;
  for (std::size_t i = 0; i < plan.batch.rows.size(); ++i)
    result.prompts.push_back(model.prompts().build(plan.batch.rows[i], plan.template_B[i]));
  result.prefix_stream = plan.prefix_stream_B;
  return result;
}

Sampler sampler_of(Recommender& model, const TrainConfig& config) {
  const Workspace& workspace = model.workspace();
  return {*workspace.dataset, workspace.shard->cut(), *workspace.order,         config.batch_size,
          config.seed,        config.block,           config.max_train_examples};
}

std::int64_t tokens_of(std::span<const Prompt> prompts) {
  return std::accumulate(prompts.begin(), prompts.end(), std::int64_t{0},
                         [](std::int64_t sum, const Prompt& prompt) {
                           return sum + static_cast<std::int64_t>(prompt.tokens.size());
                         });
}

}  // namespace

std::vector<Measurement> measure_matrices(Job& job, const Repetitions& repetitions,
                                          Recommender& model, std::int64_t tokens) {
  const LlamaConfig& c = model.llm().config();
  const ModelSlice& slice = model.llm().slice();
  const std::int64_t hidden = c.hidden_size, q = slice.heads * c.head_dim,
                     kv = slice.groups * c.head_dim;
  struct Linear {
    const char* name;
    std::int64_t outputs, inputs;
  };
  const std::vector<Linear> linears{{"qkv", q + 2 * kv, hidden},
                                    {"o", hidden, q},
                                    {"gate and up", 2 * slice.columns, hidden},
                                    {"down", hidden, slice.columns}};
  const at::NoGradGuard guard;
  std::vector<Measurement> result;
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const auto random = [&](std::int64_t rows, std::int64_t columns) {
      return at::randn({rows, columns}, at::device(job.device()).dtype(at::kFloat)).to(type);
    };
    for (const Linear& linear : linears) {
      const at::Tensor weight_OI = random(linear.outputs, linear.inputs);
      for (const std::int64_t count : token_counts(tokens)) {
        const at::Tensor x_TI = random(count, linear.inputs), dy_TO = random(count, linear.outputs);
        const double flops =
            kFlopsOfProduct * static_cast<double>(count * linear.outputs * linear.inputs);
        const std::string what = fmt::format("{} {}x{} {}, {} tokens", linear.name, linear.outputs,
                                             linear.inputs, type_name(type), count);
        const auto add = [&](const char* name, const std::function<void()>& once) {
          result.push_back({name, what, "FLOP", static_cast<double>(count), flops,
                            time_of(job, repetitions, once)});
        };
        add("matrices forward", [&] { at::mm(x_TI, weight_OI.t()); });
        add("matrices backward", [&] { at::mm(dy_TO, weight_OI); });
      }
    }
  }
  return result;
}

std::vector<Measurement> measure_decoder(Job& job, const Repetitions& repetitions,
                                         Recommender& model, const TrainConfig& config) {
  const Sampler sampler = sampler_of(model, config);
  Prompts all;
  for (std::int64_t step = 1;
       step <= sampler.batches_per_epoch() && tokens_of(all.prompts) < config.micro_batch; ++step) {
    Prompts more = first_prompts(model, sampler, config, step);
    all.prompts.insert(all.prompts.end(), more.prompts.begin(), more.prompts.end());
    all.prefix_stream.insert(all.prefix_stream.end(), more.prefix_stream.begin(),
                             more.prefix_stream.end());
  }
  model.llm().set_recompute(config.recompute == "layer");
  const DropoutKey dropout{model.config().lora.dropout, config.seed, 1};
  const std::int64_t hidden = model.llm().config().hidden_size;
  std::vector<Measurement> result;
  std::int64_t last = 0;
  for (std::size_t count = 1;; count *= 2) {
    count = std::min(count, all.prompts.size());
    const auto prompts = std::span(all.prompts).first(count);
    const std::int64_t tokens = tokens_of(prompts);
    if (tokens == last || (last > 0 && tokens > config.micro_batch)) break;
    last = tokens;
    const Pack pack = make_pack(prompts, std::span(all.prefix_stream).first(count), 0);
    const std::int64_t rows = pack.anchor_row_A.size(0);
    const auto leaf = [&](std::int64_t width) {
      return at::zeros({rows, width}, model.llm().precision().parameter_options())
          .normal_()
          .mul_(0.1)
          .set_requires_grad(true);
    };
    AnchorRows anchors;
    if (model.has_projector()) anchors.embedding_MH = leaf(hidden);
    if (model.gnn() != nullptr) anchors.z_Mr = leaf(model.config().lora.rank);
    const auto once = [&] {
      const at::Tensor score_S = model.llm().forward(pack, anchors, dropout);
      torch::autograd::backward({score_S.sum()}, {});
    };
    const auto add = [&](const char* name, std::vector<double> seconds) {
      result.push_back({name, fmt::format("{} tokens", tokens), "tokens",
                        static_cast<double>(tokens), static_cast<double>(tokens),
                        std::move(seconds)});
    };
    // The first of all has more to make than what depends on the length.
    if (count > 1) add("decoder, new length", {time_once(job, once)});
    add("decoder", time_of(job, repetitions, once));
  }
  for (const Parameter& parameter : model.parameters())
    at::Tensor(parameter.value).mutable_grad() = at::Tensor();
  model.llm().take_ratio_sums();
  return result;
}

std::vector<Measurement> measure_graph(Job& job, const Repetitions& repetitions,
                                       Recommender& model) {
  if (model.gnn() == nullptr) return {};
  const Shard& shard = *model.workspace().shard;
  Communicator& world = *job.world();
  const auto plan = shard.plan(shard.cut().full_view());
  const std::int64_t rank = model.config().lora.rank;
  const at::NoGradGuard guard;
  const at::Tensor x_mC =
      at::zeros({plan->sources(), rank}, model.table().weight_nD.options()).normal_();
  const at::Tensor out_nC = at::empty({plan->targets, rank}, x_mC.options());
  const auto edges = static_cast<double>(plan->entries);
  const double row = static_cast<double>(rank * x_mC.element_size());
  const auto rows = static_cast<double>(plan->send_rows.cpu().size(0));
  const std::string width = fmt::format("{} wide", rank);
  std::vector<Measurement> result;
  result.push_back({"SpMM", width, "edges", edges, edges, time_of(job, repetitions, [&] {
                      row_sum(plan->in_edges, x_mC, plan->sources(), {}, out_nC, 0, plan->targets);
                    })});
  if (world.size() > 1) {
    result.push_back(
        {"halo", width, "bytes", rows * row, rows * row,
         time_of(job, repetitions, [&] { HaloTransfer::forward(x_mC, *plan, world).wait(); })});
  }
  return result;
}

std::vector<Measurement> measure_collectives(Job& job, const Repetitions& repetitions,
                                             std::int64_t largest) {
  Communicator& world = *job.world();
  if (world.size() == 1) return {};
  const at::TensorOptions options = at::device(job.device()).dtype(at::kFloat);
  std::vector<Measurement> result;
  for (std::int64_t bytes = 8; bytes <= largest; bytes *= 16) {
    const auto size = static_cast<double>(bytes);
    const std::string what = fmt::format("{} bytes", bytes);
    const at::Tensor x = at::zeros({bytes / 4}, options);
    result.push_back({"all-reduce", what, "bytes", size, size, time_of(job, repetitions, [&] {
                        world.all_reduce(x, ReduceOp::sum, Traffic::control).wait();
                      })});
    // To each of the others: these many bytes in all.
    const std::int64_t others = world.size() - 1;
    const std::int64_t rows = std::max<std::int64_t>(1, bytes / 4 / others);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(world.size()), rows);
    counts[static_cast<std::size_t>(world.rank())] = 0;
    const at::Tensor send = at::zeros({rows * others, 1}, options), receive = at::empty_like(send);
    const auto sent = static_cast<double>(send.nbytes());
    result.push_back(
        {"all-to-all", what, "bytes", sent, sent, time_of(job, repetitions, [&] {
           world.all_to_all_rows(send, counts, receive, counts, Traffic::control).wait();
         })});
  }
  return result;
}

std::vector<Measurement> measure_loading(Job& job, const Repetitions& repetitions,
                                         Recommender& model, const TrainConfig& config,
                                         const std::filesystem::path& model_directory) {
  const Dataset& dataset = *model.workspace().dataset;
  const Tokenizer tokenizer(model_directory);
  std::vector<std::string> titles;
  for (std::int64_t item = 0; item < std::min(dataset.items(), kTitles); ++item)
    titles.emplace_back(dataset.title(item));
  std::size_t tokens = 0;
  for (const std::string& title : titles) tokens += tokenizer.encode(title).size();
  std::vector<Measurement> result;
  const auto count = static_cast<double>(tokens);
  result.push_back({"tokenizer", fmt::format("{} titles", titles.size()), "tokens", count, count,
                    time_of(job, repetitions, [&] {
                      for (const std::string& title : titles) tokenizer.encode(title);
                    })});
  const Sampler sampler = sampler_of(model, config);
  const Prompts first = first_prompts(model, sampler, config, 1);
  const auto batch = static_cast<double>(tokens_of(first.prompts));
  result.push_back({"loader", fmt::format("{} examples", first.prompts.size()), "tokens", batch,
                    batch, time_of(job, repetitions, [&] {
                      const Prompts once = first_prompts(model, sampler, config, 1);
                      make_packs(once.prompts, once.prefix_stream, config.micro_batch,
                                 config.shared_prefix ? Sharing::training : Sharing::none);
                    })});
  dataset.release_rows();
  return result;
}

std::vector<Measurement> measure_save(Job& job, const Repetitions& repetitions, Recommender& model,
                                      Optimizer& optimizer,
                                      const std::filesystem::path& directory) {
  const bool root = job.world()->rank() == 0;
  Measurement save{"save", "checkpoint", "bytes"};
  job.agree([&] {
    if (root) make_directories(directory);
  });
  save.seconds = time_of(job, repetitions, [&] {
    CheckpointWriter writer(job, *job.world(), {directory, 0});
    writer.start(model, optimizer, {}, {});
    writer.finish();
    job.agree([&] { writer.require_saved(); });
  });
  job.agree([&] {
    if (!root) return;
    std::error_code error;
    for (const auto& file : std::filesystem::recursive_directory_iterator(directory, error))
      if (file.is_regular_file(error)) save.work += static_cast<double>(file.file_size(error));
    std::filesystem::remove_all(directory, error);
  });
  save.size = save.work;
  return {save};
}

}  // namespace graphlora::benchmark
