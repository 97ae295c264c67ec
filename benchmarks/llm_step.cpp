// Training and evaluation speed of SmolLM2-135M's shapes (random weights, bf16, LoRA on q and v,
// one injection layer), against the rate at which this machine multiplies the same matrices.
//
//   llm_step [THREADS] [EXAMPLES] [TOKENS] [STEPS] [PRECISION]
//   mpirun -np T llm_step …     the model's slices over T ranks, THREADS for each
//
// Shapes: T tokens, H hidden.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdlib>

#include "core/primitive_cache.hpp"
#include "dist/job.hpp"
#include "model/graphlora.hpp"

namespace graphlora {
namespace {

LlamaConfig smollm2() {
  LlamaConfig c;
  c.model_type = "llama";
  c.vocab_size = 49152;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.layers = 30;
  c.heads = 9;
  c.kv_heads = 3;
  c.head_dim = 64;
  c.max_positions = 8192;
  c.rope_theta = 100000;
  c.tied_embeddings = true;
  return c;
}

/// This rank's slices; other ranks' numbers are others, which no timing sees.
BaseWeights random_weights(const LlamaConfig& c, const ModelSlice& slice, at::ScalarType type) {
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}).mul_(0.03).to(type);
  };
  const std::int64_t q = slice.heads * c.head_dim, k = slice.groups * c.head_dim;
  const at::Tensor ones_H = at::ones({c.hidden_size}, type);
  BaseWeights w;
  w.embedding_VH = matrix(c.vocab_size, c.hidden_size);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    w.layers.push_back({.qkv_OH = matrix(q + 2 * k, c.hidden_size),
                        .o_HQ = matrix(c.hidden_size, q),
                        .gate_up_OH = matrix(2 * slice.columns, c.hidden_size),
                        .down_HI = matrix(c.hidden_size, slice.columns),
                        .input_norm_H = ones_H,
                        .post_attention_norm_H = ones_H});
  }
  w.final_norm_H = ones_H;
  w.head_2H = matrix(2, c.hidden_size);
  return w;
}

/// Examples of equal length with anchors at a third and near the end.
Pack make_batch(std::int64_t examples, std::int64_t length, std::int64_t vocabulary) {
  Pack pack;
  std::vector<std::int64_t> anchors, last;
  for (std::int64_t i = 0; i < examples; ++i) {
    pack.segments.push_back({.begin = i * length, .length = length});
    anchors.push_back(i * length + length / 3);
    anchors.push_back(i * length + length - 10);
    last.push_back((i + 1) * length - 1);
  }
  pack.tokens_T = at::randint(vocabulary, {examples * length}, at::kLong);
  pack.positions_T = at::arange(length).repeat({examples});
  pack.streams_T = at::arange(examples).repeat_interleave(length);
  pack.anchor_token_A = at::tensor(anchors);
  pack.anchor_row_A = at::arange(2 * examples);
  pack.last_token_S = at::tensor(last);
  pack.label_S = at::arange(examples).remainder(2).to(at::kFloat);
  return pack;
}

struct Time {
  double wall, cpu;
};

/// Best of `repeats` runs by wall time.
template <class Body>
Time measure(int repeats, const Body& body) {
  const auto cpu_seconds = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  Time best{1e30, 1e30};
  for (int i = 0; i < repeats; ++i) {
    const auto wall = std::chrono::steady_clock::now();
    const double cpu = cpu_seconds();
    body();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count();
    if (seconds < best.wall) best = {seconds, cpu_seconds() - cpu};
  }
  return best;
}

/// GFLOP/s of one layer's products, forward and backward, at T tokens.
double matrix_rate(const BaseWeights& weights, std::int64_t tokens, int repeats) {
  const LayerWeights& w = weights.layers[0];
  std::vector<std::pair<at::Tensor, at::Tensor>> products;  // left, right
  double flops = 0;
  for (const at::Tensor& weight : {w.qkv_OH, w.o_HQ, w.gate_up_OH, w.down_HI}) {
    const auto random = [&](std::int64_t width) {
      return at::randn({tokens, width}).to(weight.scalar_type());
    };
    products.emplace_back(random(weight.size(1)), weight.t());
    products.emplace_back(random(weight.size(0)), weight);
    flops += 4.0 * static_cast<double>(tokens * weight.numel());
  }
  const Time time = measure(repeats, [&] {
    for (const auto& [left, right] : products) at::mm(left, right);
  });
  return flops / time.wall / 1e9;
}

void run(Communicator& world, int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) {
    return i < argc ? std::atoi(argv[i]) : otherwise;
  };
  const int threads = argument(1, 2), examples = argument(2, 16), length = argument(3, 110),
            steps = argument(4, 5);
  const Precision precision = Precision::parse(argc > 5 ? argv[5] : "bf16");
  at::set_num_threads(threads);
  at::manual_seed(1);
  const LlamaConfig config = smollm2();
  const ModelSlice slice = ModelSlice::of(config, world.size(), world.rank());
  BaseWeights weights = random_weights(config, slice, precision.activation);
  double parameters = 0;
  for (const LayerWeights& w : weights.layers) {
    for (const at::Tensor& t : {w.qkv_OH, w.o_HQ, w.gate_up_OH, w.down_HI})
      parameters += static_cast<double>(t.numel());
  }
  const double rate = matrix_rate(weights, std::int64_t{examples} * length, 20);
  LoraConfig lora;
  lora.inject_layers = {15};
  GraphLora model(config, std::move(weights), lora, precision, 1, Score::margin, slice, &world);
  at::manual_seed(2);
  const Pack pack = make_batch(examples, length, config.vocab_size);
  const AnchorRows anchors{at::randn({2 * examples, config.hidden_size}).mul_(0.1).requires_grad_(),
                           at::randn({2 * examples, lora.rank}).mul_(0.1).requires_grad_()};
  const auto train = [&](double probability) {
    const at::Tensor scores = model.forward(pack, anchors, {probability, 1, 1});
    at::binary_cross_entropy_with_logits(scores, pack.label_S).backward();
  };
  const auto tokens = static_cast<double>(pack.tokens());
  const auto report = [&](const char* name, const Time& time, double flops_per_token) {
    if (world.rank() != 0) return;
    const double gflops = tokens * flops_per_token / time.wall / 1e9;
    fmt::print(
        "{:<22} {:8.0f} tokens/s {:8.1f} GFLOP/s {:6.1f} % of the matrix rate {:8.3f} s wall "
        "{:8.3f} s cpu\n",
        name, tokens / time.wall, gflops, 100 * gflops / rate, time.wall, time.cpu);
  };
  if (world.rank() == 0) {
    fmt::print("{} ranks of {} threads, {} x {} tokens, matrix rate of rank 0 {:.1f} GFLOP/s\n",
               world.size(), threads, examples, length, rate);
  }
  train(0);
  report("train, no dropout", measure(steps, [&] { train(0); }), 4 * parameters);
  report("train, dropout 0.05", measure(steps, [&] { train(0.05); }), 4 * parameters);
  model.set_recompute(true);
  report("train, recompute", measure(steps, [&] { train(0.05); }), 4 * parameters);
  model.set_recompute(false);
  report("evaluate",
         measure(steps,
                 [&] {
                   const at::NoGradGuard no_grad;
                   model.forward(pack, anchors, {});
                 }),
         2 * parameters);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  if (world.rank() == 0)
    fmt::print("peak memory {:.2f} GiB\n", static_cast<double>(usage.ru_maxrss) / (1 << 20));
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  graphlora::bound_primitive_cache();
  graphlora::Job job(&argc, &argv);
  return job.run([&] { graphlora::run(*job.world(), argc, argv); });
}
