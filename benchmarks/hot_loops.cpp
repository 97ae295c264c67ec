// The decoder's loops one by one, on SmolLM2-135M's shapes in bf16, each against what the machine
// could do at best with the same work, measured in the same run: products against one large square
// product, arithmetic against multiply-adds in registers, passes over memory against a copy of
// arrays of the same size. Prints a JSON object a line, for benchmarks/roofline.
//
//   hot_loops [THREADS, default 2] [EXAMPLES, default 16] [TOKENS of each, default 200]
//
// Shapes: T tokens, H hidden, I intermediate, O outputs, N heads, G kv heads, D head_dim.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "best_seconds.hpp"
#include "core/primitive_cache.hpp"
#include "model/attention.hpp"
#include "model/attention_tiles.hpp"
#include "model/lora_linear.hpp"
#include "model/packed_weights.hpp"
#include "model/rms_norm.hpp"
#include "model/rotary.hpp"
#include "model/simd.hpp"
#include "model/swiglu.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kHidden = 576, kMiddle = 1536, kHeads = 9, kGroups = 3, kDim = 64, kRank = 8;
constexpr std::int64_t kQkv = (kHeads + 2 * kGroups) * kDim;
constexpr std::int64_t kStream = std::int64_t{1} << 26;
constexpr int kRepeats = 7;

double seconds_of(const std::function<void()>& body) { return best_seconds(kRepeats, body); }

/// What the machine can do at best.
struct Limit {
  const char* name;
  double rate;  // a second
};

void print(const char* loop, const char* unit, double work, double seconds, const Limit& limit) {
  const nlohmann::ordered_json line{{"loop", loop},
                                    {"unit", unit},
                                    {"work", work},
                                    {"seconds", seconds},
                                    {"limit", limit.rate},
                                    {"limit_is", limit.name},
                                    {"share", work / seconds / limit.rate}};
  fmt::print("{}\n", line.dump());
}

at::Tensor random(std::initializer_list<std::int64_t> sizes) {
  return at::randn(at::IntArrayRef(sizes.begin(), sizes.size())).to(at::kBFloat16);
}

/// FLOP/s of the best of some bf16 products that have all a product could wish for.
Limit square_product() {
  double best = 0;
  for (const std::int64_t size : {1024, 2048, 3072}) {
    const at::Tensor a = random({size, size}), b = random({size, size});
    PackedWeights packs;
    const double seconds = seconds_of([&] { times(&packs, a, b); });
    best = std::max(best, 2.0 * static_cast<double>(size * size * size) / seconds);
  }
  return {"square bf16 products", best};
}

/// Multiply-adds on 16 vectors that never leave the registers; returns their sum, so that they are
/// made.
GRAPHLORA_CLONES float multiply_add(std::int64_t rounds) {
  using Vec = simd::Vec<float>;
  constexpr int kChains = 16;
  Vec sums[kChains];
  for (int k = 0; k < kChains; ++k) sums[k] = simd::broadcast(static_cast<float>(k));
  const Vec factor = simd::broadcast(0.999F), term = simd::broadcast(0.5F);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (Vec& sum : sums) sum = sum * factor + term;
  Vec total{};
  for (const Vec& sum : sums) total += sum;
  return simd::sum(total);
}

Limit multiply_adds() {
  constexpr std::int64_t kRounds = 1 << 20, kFlopsOfRound = 16 * 16 * 2;
  const int threads = at::get_num_threads();
  std::vector<float> results(threads);
  const double seconds = seconds_of([&] {
    at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) results[i] = multiply_add(kRounds);
    });
  });
  return {"fp32 multiply-adds in registers",
          static_cast<double>(threads * kRounds * kFlopsOfRound) / seconds};
}

/// Bytes read and written a second by a copy of an array of `bytes` bytes.
Limit copy_of(std::int64_t bytes) {
  const at::Tensor from = at::ones({bytes / 2}, at::kBFloat16), to = at::empty_like(from);
  const double seconds = seconds_of([&] { to.copy_(from); });
  return {"a copy of as many bytes", 2.0 * static_cast<double>(bytes / 2 * 2) / seconds};
}

struct Tokens {
  std::int64_t examples, length;
  std::int64_t count() const { return examples * length; }
};

void products(const Tokens& tokens, const Limit& limit) {
  struct Linear {
    const char* name;
    std::int64_t outputs, inputs;
  };
  double all_flops = 0, forward = 0, backward = 0;
  for (const auto& [name, outputs, inputs] :
       {Linear{"q, k, v", kQkv, kHidden}, Linear{"o", kHidden, kHidden},
        Linear{"gate, up", 2 * kMiddle, kHidden}, Linear{"down", kHidden, kMiddle}}) {
    const at::Tensor weight_OI = random({outputs, inputs}), x_TI = random({tokens.count(), inputs}),
                     dy_TO = random({tokens.count(), outputs});
    const double flops = 2.0 * static_cast<double>(tokens.count() * outputs * inputs);
    PackedWeights packs;
    const double there = seconds_of([&] { times_transposed(&packs, x_TI, weight_OI, {}); }),
                 back = seconds_of([&] { times(&packs, dy_TO, weight_OI); });
    print(fmt::format("product {} forward", name).c_str(), "FLOP", flops, there, limit);
    print(fmt::format("product {} backward", name).c_str(), "FLOP", flops, back, limit);
    all_flops += flops, forward += there, backward += back;
  }
  print("products of a layer", "FLOP", 2 * all_flops, forward + backward, limit);
}

/// Forward of `function`, and its backward by a gradient like its outputs; both do `work`.
void differentiable(const std::string& name, const char* unit, double forward_work,
                    double backward_work, const Limit& forward_limit, const Limit& backward_limit,
                    const std::vector<at::Tensor>& leaves,
                    const std::function<std::vector<at::Tensor>()>& function) {
  {
    const at::NoGradGuard guard;
    print((name + " forward").c_str(), unit, forward_work, seconds_of([&] { function(); }),
          forward_limit);
  }
  for (at::Tensor leaf : leaves) leaf.set_requires_grad(true);
  const std::vector<at::Tensor> outputs = function();
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& output : outputs) gradients.push_back(at::randn_like(output));
  const double seconds =
      seconds_of([&] { torch::autograd::grad(outputs, leaves, gradients, /*retain_graph=*/true); });
  print((name + " backward").c_str(), unit, backward_work, seconds, backward_limit);
}

void attention_loops(const Tokens& tokens, const Limit& matrix, const Limit& arithmetic) {
  std::vector<Segment> segments;
  for (std::int64_t i = 0; i < tokens.examples; ++i)
    segments.push_back({.begin = i * tokens.length, .length = tokens.length});
  const at::Tensor q_TND = random({tokens.count(), kHeads, kDim}),
                   k_TGD = random({tokens.count(), kGroups, kDim}),
                   v_TGD = random({tokens.count(), kGroups, kDim});
  const Limit& limit = attention_tiles_fit(q_TND) ? matrix : arithmetic;
  const auto pairs = static_cast<double>(tokens.examples * tokens.length * (tokens.length + 1) / 2);
  // q·k and p·v; back q·k, dp = do·v, dq, dk, dv.
  const double product = 2.0 * kHeads * kDim * pairs;
  differentiable("attention", "FLOP", 2 * product, 5 * product, limit, limit, {q_TND, k_TGD, v_TGD},
                 [&] { return std::vector{attention(q_TND, k_TGD, v_TGD, segments)}; });
}

void passes(const Tokens& tokens) {
  constexpr std::int64_t kBf16 = 2;
  const std::int64_t t = tokens.count();
  const auto bytes = [&](std::int64_t numbers) { return t * numbers * kBf16; };
  const auto pass = [&](const char* name, std::int64_t there, std::int64_t back,
                        const std::vector<at::Tensor>& leaves, const auto& function) {
    differentiable(name, "bytes", static_cast<double>(bytes(there)),
                   static_cast<double>(bytes(back)), copy_of(bytes(there) / 2),
                   copy_of(bytes(back) / 2), leaves, function);
  };
  const at::Tensor x_TH = random({t, kHidden}), weight_H = at::ones({kHidden}, at::kBFloat16);
  // Back: x, dy, the gradient of the stream, dx.
  pass("RMSNorm (and the residual stream)", 2 * kHidden, 4 * kHidden, {x_TH}, [&] {
    const Normalized n = rms_norm(x_TH, weight_H, 1e-5);
    return std::vector{n.stream_TH, n.normed_TH};
  });
  const at::Tensor gate_up_T2I = random({t, 2 * kMiddle});
  pass("SwiGLU", 3 * kMiddle, 5 * kMiddle, {gate_up_T2I},
       [&] { return std::vector{swiglu(gate_up_T2I)}; });
  const RotaryTable table = RotaryTable::make(tokens.length, kDim, 1e5, at::kBFloat16);
  const at::Tensor qkv_TO = random({t, kQkv}),
                   positions_T = at::arange(tokens.length).repeat({tokens.examples});
  pass("rotary and the split of q, k, v", 2 * kQkv, 2 * kQkv, {qkv_TO}, [&] {
    return split_and_rotate(qkv_TO, {kHeads, kGroups, kGroups}, 2, table, positions_T);
  });
}

/// What residual and adapters take beside the product that they go with.
void beside_products(const Tokens& tokens, const Limit& arithmetic) {
  const at::NoGradGuard guard;
  const std::int64_t t = tokens.count();
  const at::Tensor x_TI = random({t, kMiddle}), down_HI = random({kHidden, kMiddle}),
                   stream_TH = random({t, kHidden});
  PackedWeights packs;
  const double alone = seconds_of([&] { times_transposed(&packs, x_TI, down_HI, {}); }),
               added = seconds_of([&] { times_transposed(&packs, x_TI, down_HI, stream_TH); });
  const std::int64_t bytes = t * kHidden * 2;
  print("residual, beside its product", "bytes", static_cast<double>(bytes),
        std::max(added - alone, 1e-9), copy_of(bytes / 2));

  const at::Tensor x_TH = random({t, kHidden}), qkv_OH = random({kQkv, kHidden});
  StackedAdapters adapters{at::randn({2 * kRank, kHidden}),
                           at::randn({(kHeads + kGroups) * kDim, kRank}),
                           {{0, kHeads * kDim}, {(kHeads + kGroups) * kDim, kGroups * kDim}},
                           2};
  const BaseLinear qkv{.weight_OI = qkv_OH, .packs = &packs};
  const double base = seconds_of([&] { times_transposed(&packs, x_TH, qkv_OH, {}); }),
               adapted = seconds_of([&] { lora_linear(x_TH, qkv, {}, adapters, {}, {}); });
  const double flops =
      2.0 * static_cast<double>(t * kRank * (2 * kHidden + (kHeads + kGroups) * kDim));
  print("adapters of q and v, beside their product", "FLOP", flops, std::max(adapted - base, 1e-9),
        arithmetic);
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  using namespace graphlora;
  bound_primitive_cache();
  const auto argument = [&](int i, std::int64_t otherwise) {
    return i < argc ? std::strtoll(argv[i], nullptr, 10) : otherwise;
  };
  const std::int64_t threads = argument(1, 2);
  const Tokens tokens{argument(2, 16), argument(3, 200)};
  if (threads < 1 || threads > 1024 || tokens.examples < 1 || tokens.length < 1 ||
      tokens.examples > 100'000 || tokens.length > 8192) {
    fmt::print(stderr,
               "usage: {} [THREADS, 1 to 1024] [EXAMPLES, 1 to 100000] [TOKENS, 1 to 8192]\n",
               argv[0]);
    return 2;
  }
  at::set_num_threads(static_cast<int>(threads));
  at::manual_seed(1);
  const Limit matrix = square_product(), arithmetic = multiply_adds();
  print("copy of 128 MiB", "bytes", 2.0 * kStream * 2,
        2.0 * kStream * 2 / copy_of(kStream * 2).rate, copy_of(kStream * 2));
  products(tokens, matrix);
  attention_loops(tokens, matrix, arithmetic);
  passes(tokens);
  beside_products(tokens, arithmetic);
}
