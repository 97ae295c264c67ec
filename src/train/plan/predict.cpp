// Names: P ranks, T of a tensor group, D = d_e, H hidden, r LoRA rank, n owned nodes.
#include "train/plan/predict.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.hpp"
#include "model/llm_flops.hpp"
#include "model/llm_memory.hpp"
#include "model/packed_weights.hpp"

namespace graphlora::plan {
namespace {

constexpr double kReferenceWidth = 8;   // numbers of a row that Cluster::edges speaks of
constexpr double kAdamBytes = 24;       // E and two moments, read and written, fp32
constexpr double kDenseAdamBytes = 28;  // and the gradient
constexpr double kFp32 = 4;
constexpr double kSavedTitleBytes = 8;  // of a title's token: alone and as it continues a list

/// Of the ranks of a group, one message to each of the others and back: a ring.
double all_reduce_seconds(const Link& link, std::int64_t ranks, double bytes) {
  if (ranks < 2) return 0;
  const auto p = static_cast<double>(ranks);
  return 2 * std::ceil(std::log2(p)) * link.latency + 2 * (p - 1) / p * bytes / link.bandwidth;
}

/// `bytes` from this rank to the others together. Messages to many are under way at once.
double all_to_all_seconds(const Link& link, std::int64_t ranks, double bytes) {
  if (ranks < 2) return 0;
  return std::ceil(std::log2(static_cast<double>(ranks))) * link.latency + bytes / link.bandwidth;
}

/// What several parts are computed from.
struct Setting {
  const Cluster& cluster;
  const Workload& workload;
  const Model& model;
  const TrainConfig& train;
  const Layout& layout;
  Share share = {};
  ModelSlice slice = {};
  double examples = 0, tokens = 0, packs = 0, pack_tokens = 0;  // of a rank
  double rank = 0;                                              // r
  double gnn_layers = 0;
  double projector_parameters = 0, gnn_parameters = 0;

  bool has_gnn() const { return model.settings.gnn.type != "none"; }
  const Link& world() const { return cluster.link(layout.ranks); }
};

Setting setting_of(const Cluster& cluster, const Workload& w, const Model& model,
                   const TrainConfig& train, const Layout& layout) {
  Setting s{.cluster = cluster, .workload = w, .model = model, .train = train, .layout = layout};
  s.share = w.share(layout.ranks);
  // The first rank has the most groups.
  s.slice = ModelSlice::of(model.config, static_cast<int>(layout.tensor_parallel), 0);
  s.examples =
      std::ceil(static_cast<double>(layout.batch_size) / static_cast<double>(layout.replicas()));
  s.tokens = static_cast<double>(layout.batch_size) / static_cast<double>(layout.replicas()) *
             w.tokens_per_example;
  s.packs = packs_of(s.tokens, w.tokens_per_example, static_cast<double>(layout.micro_batch));
  s.pack_tokens = s.tokens / s.packs;
  s.rank = static_cast<double>(model.settings.lora.rank);
  s.gnn_layers = static_cast<double>(resolved(model.settings.gnn, w.embedding_width).layers);
  const auto width = static_cast<double>(w.embedding_width),
             hidden = static_cast<double>(model.config.hidden_size);
  const double middle = model.settings.projector_middle > 0
                            ? static_cast<double>(model.settings.projector_middle)
                            : 10 * width;
  s.projector_parameters =
      model.settings.projector == "none" ? 0 : middle * (width + 1) + hidden * (middle + 1);
  s.gnn_parameters = s.has_gnn() ? s.rank * (width + 1) : 0;
  return s;
}

LlmMemory llm_memory(const Setting& s) {
  const Precision precision = [&] {
    Precision p = Precision::parse(s.model.settings.precision);
    if (s.cluster.gpu) p.device = at::kCUDA;
    return p;
  }();
  const LlmStep step{.tokens = static_cast<std::int64_t>(
                         std::ceil(std::min(static_cast<double>(s.layout.micro_batch), s.tokens))),
                     .recompute = s.layout.recompute,
                     .packed = PackedWeights::serve(precision),
                     .moments = s.train.optimizer.type == "adamw",
                     .embedding_mapped = !s.cluster.gpu};
  return predict_llm_memory(s.model.config, s.slice, s.model.settings.lora, precision, step);
}

void add_times(const Setting& s, const LlmMemory& memory, Prediction& p) {
  const Cluster& c = s.cluster;
  const auto add = [&](const char* name, Bound bound, double seconds, std::string why) {
    if (seconds > 0) p.parts.push_back({name, bound, seconds, std::move(why)});
  };
  const double bandwidth = c.memory_bandwidth * c.memory_efficiency;
  const auto width = static_cast<double>(s.workload.embedding_width),
             hidden = static_cast<double>(s.model.config.hidden_size);

  add("prompts", Bound::compute, s.tokens / c.loading,
      fmt::format("{:.0f} tokens a rank", s.tokens));
  if (s.has_gnn()) {
    const double passes = 2 * s.gnn_layers;  // forward and back
    add("sums over edges", Bound::memory,
        passes * s.share.entries * s.rank / kReferenceWidth / c.edges,
        fmt::format("{:.3g} entries, {:.0f} passes, {:.0f} wide", s.share.entries, passes, s.rank));
    // E·W, and for the weight's gradient again.
    add("E through the neck", Bound::memory, 2 * s.share.owned * width * kFp32 / bandwidth,
        fmt::format("{:.3g} rows of {:.0f} numbers, twice", s.share.owned, width));
    add("halo", Bound::network,
        passes * all_to_all_seconds(s.world(), s.layout.ranks,
                                    std::max(s.share.sent, s.share.halo) * s.rank * kFp32),
        fmt::format("{:.3g} rows a pass; {}", s.share.halo, s.share.source));
  }
  const double anchors = 2 * s.examples / static_cast<double>(s.layout.tensor_parallel);
  // Rows to the examples, their gradients home, and what is asked for.
  add("anchors", Bound::network,
      3 * all_to_all_seconds(s.world(), s.layout.ranks, anchors * (width + s.rank) * kFp32),
      fmt::format("{:.0f} rows of {:.0f} numbers", anchors, width + s.rank));
  const double efficiency = c.matrix_efficiency.at(s.pack_tokens);
  // Forward, and both gradients.
  add("projector", Bound::compute,
      6 * anchors * s.projector_parameters / (c.matrix_rate * efficiency),
      fmt::format("{:.3g} parameters", s.projector_parameters));
  const double linear = linear_flops(s.model.config, s.slice),
               attention = attention_flops(s.model.config, s.slice, s.workload.tokens_per_example);
  const double recompute = s.layout.recompute ? 1.5 : 1;
  add("LLM", Bound::compute,
      s.tokens * (linear + attention) * recompute / (c.matrix_rate * efficiency),
      fmt::format("{:.0f} tokens of {:.3g} FLOP{} at {:.1f} % of {:.3g} TFLOP/s, {:.0f} packs of "
                  "{:.0f} tokens",
                  s.tokens, linear + attention, s.layout.recompute ? " × 1.5" : "",
                  100 * efficiency, 1e-12 * c.matrix_rate, s.packs, s.pack_tokens));
  add("lengths of packs", Bound::compute, s.packs * c.pack_overhead,
      fmt::format("{:.0f} packs, each with products of its own length", s.packs));
  if (s.layout.tensor_parallel > 1) {
    // Two sums forward, two backward; on the CPU a bf16 sum travels as fp32.
    const double reduces = 4 * static_cast<double>(s.model.config.layers) * s.packs * recompute;
    const double bytes = s.pack_tokens * hidden * (c.gpu ? 2 : kFp32);
    add("tensor group", Bound::network,
        reduces * all_reduce_seconds(c.within, s.layout.tensor_parallel, bytes),
        fmt::format("{:.0f} sums of {:.3g} MB", reduces, 1e-6 * bytes));
  }
  const double adapters = static_cast<double>(memory.adapters) / 4;  // of value, gradient, moments
  add("gradients", Bound::network,
      all_reduce_seconds(s.world(), s.layout.replicas(), adapters) +
          all_reduce_seconds(s.world(), s.layout.ranks,
                             kFp32 * (s.projector_parameters + s.gnn_parameters)),
      fmt::format("{:.3g} MB of adapters, {:.3g} MB of projector and GNN", 1e-6 * adapters,
                  1e-6 * kFp32 * (s.projector_parameters + s.gnn_parameters)));
  add("update", Bound::memory,
      (s.share.owned * width * kAdamBytes +
       kDenseAdamBytes * (adapters / kFp32 + s.projector_parameters + s.gnn_parameters)) /
          bandwidth,
      fmt::format("{:.3g} rows of E and the moments", s.share.owned));
  add("other", Bound::compute, c.overhead, "what nothing else accounts for");
}

void add_memory(const Setting& s, const LlmMemory& llm, Prediction& p) {
  const auto add = [&](const char* name, double bytes) {
    if (bytes > 0) p.memory.emplace_back(name, bytes);
  };
  const Workload& w = s.workload;
  const auto width = static_cast<double>(w.embedding_width);
  add("program", s.cluster.program);
  add("LLM weights", static_cast<double>(llm.weights + llm.embedding));
  add("packed weights", static_cast<double>(llm.packed));
  if (!s.cluster.gpu) add("model file's map", static_cast<double>(s.model.file_bytes));
  add("adapters", static_cast<double>(llm.adapters));
  add("activations", static_cast<double>(llm.activations));
  add("layer at work", static_cast<double>(llm.workspace));
  add("heap", s.cluster.heap * static_cast<double>(llm.activations + llm.workspace));
  add("projector and GNN", 4 * kFp32 * (s.projector_parameters + s.gnn_parameters));
  add("E and moments", 3 * kFp32 * width * s.share.owned);
  const auto groups = static_cast<double>(w.groups);
  if (s.has_gnn()) {
    // Columns; pointers by row and group; ids, degrees, lists of what is sent and received.
    add("graph", 4 * s.share.entries + 8 * (groups + 1) * (s.share.owned + s.share.halo) +
                     4 * groups * s.share.owned + 24 * (s.share.owned + s.share.halo));
    add("GNN at work", kFp32 * s.rank * (2 * (s.share.owned + s.share.halo) + 3 * s.share.owned));
  }
  // On the host, whatever the rank computes on; every rank has all of it.
  if (!s.cluster.gpu) {
    add("node map", 8 * static_cast<double>(w.nodes()));
    add("titles",
        static_cast<double>(w.items) * (w.tokens_per_title * kSavedTitleBytes * 0.5 + 16));
  }
}

}  // namespace

const char* to_string(Bound bound) {
  switch (bound) {
    case Bound::compute:
      return "compute";
    case Bound::memory:
      return "memory";
    case Bound::network:
      break;
  }
  return "network";
}

double packs_of(double tokens, double length, double micro_batch) {
  // Half of a prompt's room stays free on the average.
  return std::ceil(tokens / std::max(length, micro_batch - 0.5 * length));
}

void require_predictable(const Model& model) {
  if (model.settings.gnn.type != "lightgcn" && model.settings.gnn.type != "none")
    throw ConfigError("--gnn.type {}: plan predicts lightgcn and none only",
                      model.settings.gnn.type);
}

Prediction predict(const Cluster& cluster, const Workload& workload, const Model& model,
                   const TrainConfig& train, const Layout& layout) {
  const Setting s = setting_of(cluster, workload, model, train, layout);
  const LlmMemory llm = llm_memory(s);
  Prediction p;
  p.layout = layout;
  p.graph_source = s.share.source;
  p.tokens_per_step = static_cast<double>(layout.batch_size) * workload.tokens_per_example;
  add_times(s, llm, p);
  add_memory(s, llm, p);
  std::array<double, 3> by_bound{};
  for (const Part& part : p.parts) {
    p.step_seconds += part.seconds;
    by_bound.at(static_cast<std::size_t>(part.bound)) += part.seconds;
  }
  p.bound =
      static_cast<Bound>(std::max_element(by_bound.begin(), by_bound.end()) - by_bound.begin());
  for (const auto& [name, bytes] : p.memory) p.memory_bytes += bytes;
  p.fits = p.memory_bytes <= cluster.memory;
  return p;
}

std::vector<Prediction> search(const Cluster& cluster, const Workload& workload, const Model& model,
                               const TrainConfig& train, std::int64_t ranks,
                               std::int64_t tensor_parallel,
                               std::vector<std::int64_t> micro_batches) {
  std::vector<Prediction> all;
  std::sort(micro_batches.begin(), micro_batches.end());
  const std::int64_t most = std::min({ranks, cluster.per_node, model.config.kv_heads});
  for (std::int64_t t = 1; t <= most; ++t) {
    if (ranks % t != 0 || cluster.per_node % t != 0 ||
        (tensor_parallel > 0 && t != tensor_parallel) || ranks / t > train.batch_size)
      continue;
    const double tokens = static_cast<double>(train.batch_size) * workload.tokens_per_example *
                          static_cast<double>(t) / static_cast<double>(ranks);
    for (const std::int64_t micro_batch : micro_batches) {
      for (const bool recompute : {false, true}) {
        if (recompute && train.recompute == "layer") continue;
        all.push_back(predict(cluster, workload, model, train,
                              {.ranks = ranks,
                               .tensor_parallel = t,
                               .batch_size = train.batch_size,
                               .micro_batch = micro_batch,
                               .recompute = recompute || train.recompute == "layer"}));
      }
      // All of a rank's tokens are in one pack: a larger one would be the same.
      if (packs_of(tokens, workload.tokens_per_example, static_cast<double>(micro_batch)) <= 1)
        break;
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Prediction& a, const Prediction& b) {
    if (a.fits != b.fits) return a.fits;
    return a.fits ? a.step_seconds < b.step_seconds : a.memory_bytes < b.memory_bytes;
  });
  return all;
}

}  // namespace graphlora::plan
