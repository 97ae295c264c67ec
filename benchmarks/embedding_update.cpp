// The fused update of E (rows of 256 numbers, fp32) against the machine's memory
// bandwidth on the same arrays, measured in one run, with OMP_NUM_THREADS threads.
// Usage: embedding_update [rows, default 500000] [r, default 8]
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "best_seconds.hpp"
#include "train/optimizer.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kWidth = 256, kAnchors = 64;
constexpr int kRepeats = 10;

void measure(std::int64_t rows, std::int64_t rank, float factor) {
  EmbeddingTable table{.weight_nD = at::randn({rows, kWidth}),
                       .exp_avg_nD = at::zeros({rows, kWidth}),
                       .exp_avg_sq_nD = at::zeros({rows, kWidth})};
  auto* p = table.weight_nD.mutable_data_ptr<float>();
  auto* m = table.exp_avg_nD.mutable_data_ptr<float>();
  auto* v = table.exp_avg_sq_nD.mutable_data_ptr<float>();
  const std::int64_t size = rows * kWidth;
  const auto over_all = [&](const auto& element) {
    return best_seconds(kRepeats, [&] {
      at::parallel_for(0, size, size / at::get_num_threads() + 1,
                       [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t i = begin; i < end; ++i) element(i);
                       });
    });
  };
  // Both leave the arrays as they are: m and v are zero, the factor is one, which the compiler
  // doesn't know.
  const double triad =
      12.0 * static_cast<double>(size) / over_all([=](std::int64_t i) { v[i] = m[i] + 3 * v[i]; });
  const double scale = 24.0 * static_cast<double>(size) / over_all([=](std::int64_t i) {
                         p[i] *= factor;
                         m[i] *= factor;
                         v[i] *= factor;
                       });
  EmbeddingGradient gradient;
  gradient.low_rank_nr = at::randn({rows, rank});
  gradient.factor_rD = at::randn({rank, kWidth});
  gradient.set_sparse(at::randint(0, rows, {kAnchors}, at::kLong), at::randn({kAnchors, kWidth}));
  const Optimizer optimizer({}, {});
  std::int64_t step = 0;
  const double seconds =
      best_seconds(kRepeats, [&] { optimizer.step_embedding(table, gradient, ++step, 1); });
  const double rate = 24.0 * static_cast<double>(size) / seconds;
  const double norm = best_seconds(kRepeats, [&] { gradient.squared_norm(); });
  const double stream = std::max(triad, scale);
  fmt::print("E of {} rows x {}, r = {}, {} threads, {} MiB with its moments\n", rows, kWidth, rank,
             at::get_num_threads(), size * 12 >> 20);
  fmt::print("  v = m + s·v         {:7.2f} GB/s\n", triad / 1e9);
  fmt::print("  p, m, v scaled      {:7.2f} GB/s\n", scale / 1e9);
  fmt::print(
      "  fused AdamW update  {:7.2f} GB/s   {:.4f} s, ratio to the faster {:.2f} (target 0.60)\n",
      rate / 1e9, seconds, rate / stream);
  fmt::print("  squared norm        {:7.4f} s\n", norm);
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  const std::int64_t rows = argc > 1 ? std::strtoll(argv[1], nullptr, 10) : 500'000;
  const std::int64_t rank = argc > 2 ? std::strtoll(argv[2], nullptr, 10) : 8;
  if (rows < 1 || rows > 50'000'000 || rank < 1 || rank > 1024) {
    fmt::print(stderr, "usage: {} [rows, 1 to 50000000] [r, 1 to 1024]\n", argv[0]);
    return 2;
  }
  graphlora::measure(rows, rank, argc > 3 ? std::strtof(argv[3], nullptr) : 1.0F);
}
