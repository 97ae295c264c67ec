// Sparse sums at r = 8 against the machine's memory bandwidth and torch's CSR product, all measured
// in one run, with OMP_NUM_THREADS threads. Usage: spmm_benchmark [edges]
#include <ATen/Parallel.h>
#include <ATen/ops/sparse_csr_tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "best_seconds.hpp"
#include "core/rng.hpp"
#include "graph/row_sum.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kWidth = 8;
constexpr double kBytesPerEntry = 68;  // 4 of the column, 64 of the cache line of x
constexpr int kRepeats = 5;

// STREAM's triad, a = b + s·c, on arrays of 256 MiB.
double stream_bytes_per_second() {
  const std::int64_t size = std::int64_t{1} << 25;
  at::Tensor a = at::zeros({size}, at::kDouble), b = at::ones_like(a), c = at::ones_like(a);
  auto* pa = a.mutable_data_ptr<double>();
  const auto *pb = b.const_data_ptr<double>(), *pc = c.const_data_ptr<double>();
  const double seconds = best_seconds(kRepeats, [&] {
    at::parallel_for(0, size, size / at::get_num_threads(),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) pa[i] = pb[i] + 3.0 * pc[i];
                     });
  });
  return 24.0 * static_cast<double>(size) / seconds;
}

// Rows of a graph, as torch's CSR has them (32 bit).
struct Csr {
  std::string name;
  at::Tensor pointers, col;
  std::int64_t nodes() const { return pointers.size(0) - 1; }
};

Csr to_csr(std::string name, std::int64_t nodes,
           const std::vector<std::pair<std::int32_t, std::int32_t>>& entries) {
  Csr csr{std::move(name), at::zeros({nodes + 1}, at::kInt),
          at::empty({static_cast<std::int64_t>(entries.size())}, at::kInt)};
  auto* pointer = csr.pointers.mutable_data_ptr<std::int32_t>();
  auto* col = csr.col.mutable_data_ptr<std::int32_t>();
  for (const auto& [row, source] : entries) ++pointer[row + 1];
  for (std::int64_t row = 0; row < nodes; ++row) pointer[row + 1] += pointer[row];
  std::vector<std::int32_t> fill(pointer, pointer + nodes);
  for (const auto& [row, source] : entries) col[fill[row]++] = source;
  for (std::int64_t row = 0; row < nodes; ++row) {
    std::sort(col + pointer[row], col + pointer[row + 1]);
  }
  return csr;
}

// Users and items, items the more popular the lower their number: what a recommender has.
Csr bipartite(std::int64_t users, std::int64_t items, std::int64_t edges) {
  SplitMix64 random(1);
  std::vector<std::pair<std::int32_t, std::int32_t>> entries;
  for (std::int64_t edge = 0; edge < edges; ++edge) {
    const auto user = static_cast<std::int32_t>(random.below(users));
    const double skewed = std::pow(random.uniform(), 3.0);
    const auto item = static_cast<std::int32_t>(users + static_cast<double>(items) * skewed);
    entries.emplace_back(user, item);
    entries.emplace_back(item, user);
  }
  return to_csr("bipartite, skewed popularity", users + items, entries);
}

// Every entry misses every cache: the worst case.
Csr uniform(std::int64_t nodes, std::int64_t count) {
  SplitMix64 random(2);
  std::vector<std::pair<std::int32_t, std::int32_t>> entries(count);
  for (auto& [row, source] : entries) {
    row = static_cast<std::int32_t>(random.below(nodes));
    source = static_cast<std::int32_t>(random.below(nodes));
  }
  return to_csr("uniform, the worst case", nodes, entries);
}

void measure(const Csr& graph) {
  const std::int64_t nodes = graph.nodes(), entries = graph.col.numel();
  const RowLists lists = make_row_lists(graph.pointers.to(at::kLong), graph.col);
  const at::Tensor x = at::rand({nodes, kWidth}), y = at::empty({nodes, kWidth});
  const at::Tensor csr =
      at::sparse_csr_tensor(graph.pointers, graph.col, at::ones({entries}), {nodes, nodes},
                            at::TensorOptions().dtype(at::kFloat));
  const double stream = stream_bytes_per_second();
  const double forward = best_seconds(kRepeats, [&] { row_sum(lists, x, nodes, {}, y, 0, nodes); });
  // The adjoint over the owned block of a shard that has half of its columns in the halo.
  const double limited =
      best_seconds(kRepeats, [&] { row_sum(lists, x, nodes / 2, {}, y, 0, nodes); });
  const double torch_csr = best_seconds(kRepeats, [&] { csr.matmul(x); });
  const double rate = kBytesPerEntry * static_cast<double>(entries) / forward;
  fmt::print("{}: {} nodes, {} entries (matrix {} MiB, x {} MiB), {} threads\n", graph.name, nodes,
             entries, entries * 4 >> 20, nodes * kWidth * 4 >> 20, at::get_num_threads());
  fmt::print("  STREAM triad     {:7.2f} GB/s\n", stream / 1e9);
  fmt::print("  row_sum          {:7.2f} GB/s   ratio to STREAM {:.2f} (target 0.60)\n", rate / 1e9,
             rate / stream);
  fmt::print("  row_sum, adjoint {:7.4f} s      ratio to forward {:.2f}\n", limited,
             limited / forward);
  fmt::print("  torch CSR        {:7.4f} s      speed-up of row_sum {:.2f} (target 1.00)\n",
             torch_csr, torch_csr / forward);
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  const std::int64_t edges = argc > 1 ? std::strtoll(argv[1], nullptr, 10) : 18'000'000;
  if (edges < 1 || edges > 500'000'000) {
    fmt::print(stderr, "usage: {} [edges, 1 to 500000000]\n", argv[0]);
    return 2;
  }
  graphlora::measure(graphlora::bipartite(edges / 18 + 1, edges / 90 + 1, edges));
  graphlora::measure(graphlora::uniform(edges / 6 + 1, 2 * edges));
}
