// Sparse sums at r = 8 against the machine's memory bandwidth and torch's CSR product, all measured
// in one run. Usage: spmm [nodes] [edges per node] [threads]
#include <ATen/Parallel.h>
#include <ATen/ops/sparse_csr_tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "core/rng.hpp"
#include "graph/row_sum.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kWidth = 8;
constexpr double kBytesPerEntry = 68;  // 4 of the column, 64 of the cache line of x
constexpr int kRepeats = 5;

double best_seconds(const std::function<void()>& body) {
  body();
  double best = INFINITY;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// STREAM's triad, a = b + s·c, on arrays of 256 MiB.
double stream_bytes_per_second() {
  const std::int64_t size = std::int64_t{1} << 25;
  at::Tensor a = at::zeros({size}, at::kDouble), b = at::ones_like(a), c = at::ones_like(a);
  auto* pa = a.mutable_data_ptr<double>();
  const auto *pb = b.const_data_ptr<double>(), *pc = c.const_data_ptr<double>();
  const double seconds = best_seconds([&] {
    at::parallel_for(0, size, size / at::get_num_threads(),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) pa[i] = pb[i] + 3.0 * pc[i];
                     });
  });
  return 24.0 * static_cast<double>(size) / seconds;
}

int run(std::int64_t nodes, std::int64_t degree, int threads) {
  at::set_num_threads(threads);
  SplitMix64 random(1);
  at::Tensor pointers = at::empty({nodes + 1}, at::kInt);
  auto* pointer = pointers.mutable_data_ptr<std::int32_t>();
  pointer[0] = 0;
  for (std::int64_t row = 0; row < nodes; ++row) {
    pointer[row + 1] = pointer[row] + static_cast<std::int32_t>(random.below(2 * degree + 1));
  }
  const std::int64_t entries = pointer[nodes];
  at::Tensor col = at::empty({entries}, at::kInt);
  auto* cols = col.mutable_data_ptr<std::int32_t>();
  for (std::int64_t row = 0; row < nodes; ++row) {
    for (std::int32_t e = pointer[row]; e < pointer[row + 1]; ++e) {
      cols[e] = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(nodes)));
    }
    std::sort(cols + pointer[row], cols + pointer[row + 1]);
  }
  at::Tensor runs = at::empty({nodes, 4}, at::kLong);
  auto* run = runs.mutable_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < nodes; ++row, run += 4) {
    run[0] = pointer[row];
    run[1] = run[2] = run[3] = pointer[row + 1];
  }
  const RowLists lists = make_row_lists(runs, col);
  const at::Tensor x = at::rand({nodes, kWidth}), y = at::empty({nodes, kWidth});
  const at::Tensor csr = at::sparse_csr_tensor(pointers, col, at::ones({entries}), {nodes, nodes},
                                               at::TensorOptions().dtype(at::kFloat));

  const double stream = stream_bytes_per_second();
  const double forward = best_seconds([&] { row_sum(lists, x, nodes, {}, y, 0, nodes); });
  // The adjoint over the owned block of a shard that has half of its columns in the halo.
  const double limited = best_seconds([&] { row_sum(lists, x, nodes / 2, {}, y, 0, nodes); });
  const double torch_csr = best_seconds([&] { csr.matmul(x); });
  const double rate = kBytesPerEntry * static_cast<double>(entries) / forward;
  fmt::print("{} threads, {} nodes, {} entries, r = {}: x is {} MiB, the index {} MiB\n", threads,
             nodes, entries, kWidth, nodes * kWidth * 4 >> 20, entries * 4 >> 20);
  fmt::print("STREAM triad      {:8.2f} GB/s\n", stream / 1e9);
  fmt::print(
      "row_sum           {:8.2f} GB/s  {:.2f} ns an entry  ratio to STREAM {:.2f} (target 0.60)\n",
      rate / 1e9, forward / static_cast<double>(entries) * 1e9, rate / stream);
  fmt::print("row_sum, adjoint  {:8.4f} s     ratio to forward {:.2f}\n", limited,
             limited / forward);
  fmt::print("torch CSR product {:8.4f} s     row_sum {:.4f} s, ratio {:.2f} (target 1.00)\n",
             torch_csr, forward, torch_csr / forward);
  return 0;
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  const auto argument = [&](int k, std::int64_t standard) {
    return argc > k ? std::strtoll(argv[k], nullptr, 10) : standard;
  };
  return graphlora::run(argument(1, 3'000'000), argument(2, 12),
                        static_cast<int>(argument(3, at::get_num_threads())));
}
