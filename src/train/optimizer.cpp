// Shapes: n owned rows, D = d_e, W padded D, r rank, S sparse rows.
#include "train/optimizer.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "core/device_loop.hpp"
#include "core/error.hpp"
#include "model/simd.hpp"
#include "model/small_matmul.hpp"
#include "train/optimizer_kernel.hpp"

namespace graphlora {
namespace {

using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kElementsPerTask = 1 << 14;
// A tile of the embedding's gradient stays in the first-level cache, a piece of W in the second.
constexpr std::int64_t kTileRows = 4, kTileColumns = 512;
// Up to this rank a tile is one row, so that arithmetic and memory take turns often: measured
// faster. Beyond, four rows share what is read of W.
constexpr std::int64_t kOneRowRank = 16;
constexpr std::int64_t kRowsPerTask = 16 * kTileRows;
// Elements asked for before they are needed: hardware stops at every page, and while a tile is
// made.
template <class T>
constexpr std::int64_t kAhead = 2048 / sizeof(T);

template <class V>
GRAPHLORA_INLINE V square_root(V v) {
  V root;
  for (std::size_t i = 0; i < sizeof(v) / sizeof(v[0]); ++i) root[i] = std::sqrt(v[i]);
  return root;
}

/// AdamWUpdate, vectors of numbers at a time.
template <class T>
struct AdamW : AdamWScalars<T> {
  T *p, *m, *v;
  AdamW(const AdamWScalars<T>& scalars, T* p, T* m, T* v)
      : AdamWScalars<T>(scalars), p(p), m(m), v(v) {}

  /// Elements [at, at + count) by `count` gradients; the same bits for an element wherever it
  /// stands.
  GRAPHLORA_INLINE void operator()(std::int64_t at, const T* g, std::int64_t count) const {
    for (std::int64_t i = 0; i < count; i += kLanes<T>) {
      const std::int64_t k = at + i, left = count - i;
      for (const T* next : {p, m, v}) __builtin_prefetch(next + k + kAhead<T>, 1, 3);
      const Vec<T> gradient = simd::load(g + i, left), mean = simd::load(m + k, left);
      const Vec<T> new_mean = mean + this->lerp1 * (gradient - mean);
      const Vec<T> square =
          this->beta2 * simd::load(v + k, left) + this->one_minus_beta2 * (gradient * gradient);
      const Vec<T> step = this->step_size * new_mean /
                          (square_root(square) * this->inverse_root_correction2 + this->epsilon);
      simd::store(m + k, new_mean, left);
      simd::store(v + k, square, left);
      simd::store(p + k, this->keep * simd::load(p + k, left) - step, left);
    }
  }
};

template <class T>
struct Sgd {
  T lr;
  T* p;
  GRAPHLORA_INLINE void operator()(std::int64_t at, const T* g, std::int64_t count) const {
    for (std::int64_t i = 0; i < count; i += kLanes<T>) {
      const std::int64_t k = at + i, left = count - i;
      simd::store(p + k, simd::load(p + k, left) - lr * simd::load(g + i, left), left);
    }
  }
};

template <class T, class Update>
GRAPHLORA_CLONES void update_elements(const Update& update, const T* g, std::int64_t begin,
                                      std::int64_t end) {
  update(begin, g + begin, end - begin);
}

/// EmbeddingGradient as the fused pass reads it.
template <class T>
struct GradientParts : RowGradient<T> {
  std::int64_t padded = 0;  // width of a row of `factor`, zeros from D on
};

/// Adds `from` to the first `count` elements of `to`, which has room for whole vectors.
template <class T>
GRAPHLORA_INLINE void add_to(T* to, const T* from, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes<T>)
    simd::store(to + i, simd::load(to + i) + simd::load(from + i, count - i));
}

/// One pass over rows [begin, end) of E and its moments: the gradient is made tile by tile. What a
/// row gets does not depend on the rows beside it.
template <class T, class Update>
GRAPHLORA_CLONES void update_rows(const GradientParts<T>& g, const Update& update,
                                  std::int64_t begin, std::int64_t end) {
  alignas(64) T tile[kTileRows * kTileColumns];
  const std::int64_t tile_rows = g.rank <= kOneRowRank ? 1 : kTileRows;
  for (std::int64_t row = begin; row < end; row += tile_rows) {
    const std::int64_t rows = std::min(tile_rows, end - row);
    const std::int64_t* sparse_end = g.rows + g.sparse_rows;
    const std::int64_t* sparse_begin = std::lower_bound(g.rows, sparse_end, row);
    for (std::int64_t column = 0; column < g.width; column += kTileColumns) {
      const std::int64_t columns = std::min(kTileColumns, g.width - column);
      simd::matmul(rows, simd::padded<T>(columns), g.rank, g.low_rank + row * g.rank, g.rank,
                   std::int64_t{1}, g.factor + column, g.padded, tile, kTileColumns, false);
      if (g.dense != nullptr) {
        for (std::int64_t i = 0; i < rows; ++i)
          add_to(tile + i * kTileColumns, g.dense + (row + i) * g.width + column, columns);
      }
      for (const auto* s = sparse_begin; s != sparse_end && *s < row + rows; ++s) {
        add_to(tile + (*s - row) * kTileColumns, g.sparse + (s - g.rows) * g.width + column,
               columns);
      }
      for (std::int64_t i = 0; i < rows; ++i)
        update((row + i) * g.width + column, tile + i * kTileColumns, columns);
    }
  }
}

template <class T>
AdamWScalars<T> adamw_scalars(const OptimizerConfig& config, double lr, double weight_decay,
                              std::int64_t updates) {
  return {lr, weight_decay, config.beta1, config.beta2, config.epsilon, updates};
}

/// One update by `gradient` of `rows` rows of values, with moments where the rule is AdamW. On CUDA
/// on the current stream.
template <class T, class Scalars>
void update_on_device(const Scalars& scalars, T lr, const RowGradient<T>& gradient,
                      std::int64_t rows, const at::Tensor& values,
                      const Optimizer::State& moments) {
  T* p = values.mutable_data_ptr<T>();
  if (!moments.exp_avg.defined()) {
    device_loop(values.device(), "sgd", rows, gradient.width, SgdUpdate<T>{lr, gradient, p});
    return;
  }
  device_loop(values.device(), "adamw", rows, gradient.width,
              AdamWUpdate<T>{scalars(), gradient, p, moments.exp_avg.mutable_data_ptr<T>(),
                             moments.exp_avg_sq.mutable_data_ptr<T>()});
}

}  // namespace

double OptimizerConfig::rate(Placement placement) const {
  double own = lr_lora;
  if (placement == Placement::projector) own = lr_projector;
  if (placement == Placement::gnn) own = lr_gnn;
  return own >= 0 ? own : lr;
}

Optimizer::Optimizer(std::vector<Parameter> parameters, const OptimizerConfig& config)
    : parameters_(std::move(parameters)), states_(parameters_.size()), config_(config) {
  if (config_.type != "adamw" && config_.type != "sgd") {
    throw ConfigError("optim.type: must be adamw or sgd, got '{}'", config_.type);
  }
  if (config_.type == "sgd") return;
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    states_[i] = {at::zeros_like(parameters_[i].value), at::zeros_like(parameters_[i].value)};
  }
}

void Optimizer::step(double factor, const std::function<std::int64_t(const Parameter&)>& updates) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    at::Tensor& grad = parameter.value.mutable_grad();
    const at::Tensor gradient = grad.defined() ? grad.contiguous() : at::Tensor();
    grad.reset();
    const std::int64_t count = updates(parameter);
    if (count == 0) continue;
    at::Tensor value = parameter.value.detach();
    TORCH_CHECK(value.is_contiguous(), parameter.name, " is not contiguous");
    const double lr = config_.rate(parameter.placement) * factor;
    AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "optimizer_step", [&] {
      const auto scalars = [&] {
        return adamw_scalars<scalar_t>(config_, lr, parameter.decay ? config_.weight_decay : 0,
                                       count);
      };
      if (takes_device_path(value, Shortcut::optimizer)) {
        RowGradient<scalar_t> own;
        own.width = value.numel();
        if (gradient.defined()) own.dense = gradient.const_data_ptr<scalar_t>();
        update_on_device(scalars, static_cast<scalar_t>(lr), own, 1, value, states_[i]);
        return;
      }
      const at::Tensor g = gradient.defined() ? gradient : at::zeros_like(value);
      const auto apply = [&](const auto& update) {
        at::parallel_for(0, value.numel(), kElementsPerTask, [&](std::int64_t a, std::int64_t b) {
          update_elements(update, g.const_data_ptr<scalar_t>(), a, b);
        });
      };
      scalar_t* p = value.mutable_data_ptr<scalar_t>();
      if (config_.type == "sgd") {
        apply(Sgd<scalar_t>{static_cast<scalar_t>(lr), p});
      } else {
        apply(AdamW<scalar_t>(scalars(), p,
                              states_[i].exp_avg.template mutable_data_ptr<scalar_t>(),
                              states_[i].exp_avg_sq.template mutable_data_ptr<scalar_t>()));
      }
    });
  }
}

void Optimizer::step_embedding(EmbeddingTable& table, const EmbeddingGradient& gradient,
                               std::int64_t updates, double factor) const {
  const at::NoGradGuard no_grad;
  at::Tensor& weight_nD = table.weight_nD;
  const bool adamw = config_.type == "adamw";
  if (adamw && !table.exp_avg_nD.defined()) {
    table.exp_avg_nD = at::zeros_like(weight_nD);
    table.exp_avg_sq_nD = at::zeros_like(weight_nD);
  }
  TORCH_CHECK(weight_nD.is_contiguous(), "the embedding table is not contiguous");
  const bool on_device = takes_device_path(weight_nD, Shortcut::optimizer);
  const double lr = config_.embedding_rate() * factor;
  if (lr == 0) return;
  const std::int64_t rows = weight_nD.size(0), width = weight_nD.size(1);
  if (rows == 0) return;
  AT_DISPATCH_FLOATING_TYPES(weight_nD.scalar_type(), "step_embedding", [&] {
    const auto check = [&](const at::Tensor& tensor, at::IntArrayRef sizes, const char* part) {
      TORCH_CHECK(tensor.sizes() == sizes && tensor.scalar_type() == weight_nD.scalar_type() &&
                      tensor.device() == weight_nD.device(),
                  "gradient of the embedding table: the ", part, " part has shape ", tensor.sizes(),
                  " and type ", tensor.scalar_type(), " on ", tensor.device());
      return tensor.contiguous();
    };
    GradientParts<scalar_t> parts;
    parts.width = width;
    at::Tensor low_rank_nr, factor_rW, dense_nD, sparse_rows_S, sparse_SD;  // kept alive
    if (gradient.low_rank_nr.defined()) {
      parts.rank = gradient.factor_rD.size(0);
      parts.padded = on_device ? width : simd::padded<scalar_t>(width);
      low_rank_nr = check(gradient.low_rank_nr, {rows, parts.rank}, "low-rank");
      factor_rW = at::constant_pad_nd(
          check(gradient.factor_rD, {parts.rank, width}, "factor of the low-rank"),
          {0, parts.padded - width});
      parts.low_rank = low_rank_nr.const_data_ptr<scalar_t>();
      parts.factor = factor_rW.const_data_ptr<scalar_t>();
    }
    if (gradient.dense_nD.defined()) {
      dense_nD = check(gradient.dense_nD, {rows, width}, "dense");
      parts.dense = dense_nD.const_data_ptr<scalar_t>();
    }
    if (gradient.sparse_rows_S.defined()) {
      sparse_rows_S = gradient.sparse_rows_S.contiguous();
      TORCH_CHECK(sparse_rows_S.device() == weight_nD.device(),
                  "gradient of the embedding table: the sparse rows are on ",
                  sparse_rows_S.device());
      sparse_SD = check(gradient.sparse_SD, {sparse_rows_S.numel(), width}, "sparse");
      parts.rows = sparse_rows_S.const_data_ptr<std::int64_t>();
      parts.sparse_rows = sparse_rows_S.numel();
      parts.sparse = sparse_SD.const_data_ptr<scalar_t>();
    }
    const auto scalars = [&] { return adamw_scalars<scalar_t>(config_, lr, 0, updates); };
    if (on_device) {
      update_on_device(scalars, static_cast<scalar_t>(lr), RowGradient<scalar_t>(parts), rows,
                       weight_nD, adamw ? State{table.exp_avg_nD, table.exp_avg_sq_nD} : State{});
      return;
    }
    const auto apply = [&](const auto& update) {
      at::parallel_for(0, rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
        update_rows(parts, update, begin, end);
      });
    };
    scalar_t* p = weight_nD.mutable_data_ptr<scalar_t>();
    if (adamw) {
      apply(AdamW<scalar_t>(scalars(), p, table.exp_avg_nD.mutable_data_ptr<scalar_t>(),
                            table.exp_avg_sq_nD.mutable_data_ptr<scalar_t>()));
    } else {
      apply(Sgd<scalar_t>{static_cast<scalar_t>(lr), p});
    }
  });
}

}  // namespace graphlora
