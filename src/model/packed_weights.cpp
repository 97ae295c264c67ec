// Shapes: T tokens, K depth and N columns of a product, P panels of a weight.
#include "model/packed_weights.hpp"

#include <ATen/Parallel.h>

#include "core/ceil_div.hpp"
#include "core/shortcuts.hpp"
#include "model/matrix_unit.hpp"

namespace graphlora {
namespace {

using at::BFloat16;
using matrix_unit::kColumns;
using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kLane = kLanes<float>;
constexpr std::int64_t kLine = 2 * kLane;  // bf16 numbers of a cache line
constexpr std::int64_t kRows = 64;         // of a block
constexpr std::int64_t kRowsStep = 16;     // of a block of fewer
// Of x: what a core's cache holds beside a panel while it meets all of them.
constexpr std::int64_t kCacheBytes = 768 << 10;

/// b (K × N) as panels of kColumns of its columns, zeros behind the last, rows in pairs.
at::Tensor packed_panels(const at::Tensor& b_KN) {
  const at::NoGradGuard guard;
  const std::int64_t depth = b_KN.size(0), panels = ceil_div(b_KN.size(1), kColumns);
  return at::constant_pad_nd(b_KN, {0, panels * kColumns - b_KN.size(1)})
      .view({depth / 2, 2, panels, kColumns})
      .permute({2, 0, 3, 1})
      .contiguous();
}

/// What is added to a product: rows of numbers, all the same for a bias; null: nothing.
struct Added {
  const BFloat16* numbers;
  std::int64_t row;
};

/// y = c (+ added), `columns` of each row.
GRAPHLORA_MATRIX_UNIT void write_block(const float* c, std::int64_t rows, std::int64_t columns,
                                       const Added& added, BFloat16* y, std::int64_t y_row) {
  const auto sum = [&](std::int64_t r, std::int64_t n) __attribute__((always_inline)) {
    const Vec<float> v = simd::load(c + r * kColumns + n);
    if (added.numbers == nullptr) return v;
    return v + simd::load(added.numbers + r * added.row + n, columns - n);
  };
  const bool whole_lines = columns % kLine == 0 && y_row % kLine == 0 &&
                           reinterpret_cast<std::uintptr_t>(y) % (kLine * sizeof(BFloat16)) == 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    BFloat16* to = y + r * y_row;
    if (whole_lines) {
      for (std::int64_t n = 0; n < columns; n += kLine)
        matrix_unit::store_line(to + n, sum(r, n), sum(r, n + kLane));
    } else {
      for (std::int64_t n = 0; n < columns; n += kLane) simd::store(to + n, sum(r, n), columns - n);
    }
  }
}

struct Range {
  std::int64_t begin, end;
};

/// The k-th of n parts, as even as whole numbers let them be.
Range part(const Range& range, std::int64_t k, std::int64_t n) {
  const std::int64_t size = range.end - range.begin;
  return {range.begin + size * k / n, range.begin + size * (k + 1) / n};
}

/// x·b (+ added), each sum in the order of K whatever the number of tokens or threads.
at::Tensor product(const at::Tensor& x_TK, const at::Tensor& b_PKN, std::int64_t columns,
                   const std::optional<at::Tensor>& added) {
  const std::int64_t tokens = x_TK.size(0), depth = x_TK.size(1), panels = b_PKN.size(0);
  TORCH_CHECK(x_TK.dim() == 2 && depth == 2 * b_PKN.size(1), "packed weights: x has ", depth,
              " columns, the weight ", 2 * b_PKN.size(1));
  TORCH_CHECK(
      !added || (added->size(-1) == columns && (added->dim() == 1 || added->size(0) == tokens)),
      "packed weights: what is added does not fit ", tokens, " x ", columns);
  at::Tensor y_TN = at::empty({tokens, columns}, x_TK.options());
  at::Tensor x = x_TK.contiguous();
  // Few kernels: a last block of fewer rows begins earlier, and a pack of fewer has some more.
  const std::int64_t rows = std::min(kRows, ceil_div(tokens, kRowsStep) * kRowsStep);
  if (tokens < rows) x = at::constant_pad_nd(x, {0, 0, 0, rows - tokens});
  const std::int64_t last = std::max<std::int64_t>(tokens - rows, 0);
  const at::Tensor more = added ? added->contiguous() : at::Tensor();
  const std::int64_t added_row = more.defined() && more.dim() == 2 ? columns : 0;

  const std::int64_t blocks = ceil_div(tokens, rows), threads = at::get_num_threads();
  const std::int64_t cached =
      std::max<std::int64_t>(1, kCacheBytes / (rows * depth * std::int64_t{sizeof(BFloat16)}));
  // Threads share the blocks, whose rows stay in their caches, or the panels where that is more
  // even (on 2 cores: 5 to 8 % of scoring where both are).
  const bool by_panels = ceil_div(panels, threads) * blocks < ceil_div(blocks, threads) * panels;
  const std::int64_t tasks = std::min(threads, by_panels ? panels : blocks);
  const auto* const from = x.const_data_ptr<BFloat16>();
  const auto* const weight = b_PKN.const_data_ptr<BFloat16>();
  const auto* const plus = more.defined() ? more.const_data_ptr<BFloat16>() : nullptr;
  auto* const to = y_TN.data_ptr<BFloat16>();
  const auto multiply = [&](const Range& block_range, const Range& panel_range, float* c) {
    for (std::int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
      const std::int64_t column = panel * kColumns;
      for (std::int64_t block = block_range.begin; block < block_range.end; ++block) {
        const std::int64_t first = block * rows, start = std::min(first, last);
        matrix_unit::multiply(rows, kColumns, depth, from + start * depth, depth,
                              weight + column * depth, c, kColumns, false);
        write_block(c + (first - start) * kColumns, std::min(rows, tokens - first),
                    std::min(kColumns, columns - column),
                    {plus == nullptr ? nullptr : plus + first * added_row + column, added_row},
                    to + first * columns + column, columns);
      }
    }
  };
  at::parallel_for(0, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    const matrix_unit::Use use;
    alignas(64) float c[kRows * kColumns];
    for (std::int64_t task = begin; task < end; ++task) {
      const Range own = part({0, by_panels ? panels : blocks}, task, tasks);
      const Range own_blocks = by_panels ? Range{0, blocks} : own;
      const std::int64_t pieces = ceil_div(own_blocks.end - own_blocks.begin, cached);
      for (std::int64_t piece = 0; piece < pieces; ++piece)
        multiply(part(own_blocks, piece, pieces), by_panels ? own : Range{0, panels}, c);
    }
  });
  return y_TN;
}

/// Whether numbers of this type, there, are multiplied by packed weights.
bool served(const at::Device& device, at::ScalarType type) {
  return device.is_cpu() && type == at::kBFloat16 && !is_off(Shortcut::packing) &&
         PackedWeights::available();
}

/// Whether x of `depth` columns is multiplied by a packed weight.
bool fits(const PackedWeights* packs, const at::Tensor& x, const at::Tensor& weight_OI,
          std::int64_t depth) {
  return packs != nullptr && x.size(0) > 0 && depth % 2 == 0 && weight_OI.is_contiguous() &&
         served(x.device(), x.scalar_type());
}

}  // namespace

bool PackedWeights::available() { return matrix_unit::available(); }

bool PackedWeights::serve(const Precision& precision) {
  return served(precision.device, precision.activation);
}

const at::Tensor& PackedWeights::of(const at::Tensor& weight_OI, bool transposed) {
  at::Tensor& made =
      packed_[{weight_OI.const_data_ptr(), weight_OI.size(0), weight_OI.size(1), transposed}];
  if (!made.defined()) made = packed_panels(transposed ? weight_OI.t() : weight_OI);
  return made;
}

at::Tensor times_transposed(PackedWeights* packs, const at::Tensor& x_TI,
                            const at::Tensor& weight_OI,
                            const std::optional<at::Tensor>& added_TO) {
  if (fits(packs, x_TI, weight_OI, weight_OI.size(1)))
    return product(x_TI, packs->of(weight_OI, true), weight_OI.size(0), added_TO);
  return added_TO ? at::addmm(*added_TO, x_TI, weight_OI.t()) : at::mm(x_TI, weight_OI.t());
}

at::Tensor times(PackedWeights* packs, const at::Tensor& dy_TO, const at::Tensor& weight_OI) {
  if (fits(packs, dy_TO, weight_OI, weight_OI.size(0)))
    return product(dy_TO, packs->of(weight_OI, false), weight_OI.size(1), std::nullopt);
  return at::mm(dy_TO, weight_OI);
}

}  // namespace graphlora
