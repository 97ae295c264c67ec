// Shapes: n owned rows, D = d_e, r rank, S sparse rows, b rows of a block.
#include "train/optimizer.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "core/error.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kElementsPerTask = 1 << 14;
constexpr std::int64_t kRowsPerBlock = 64;

/// One step's scalars of AdamW as torch.optim.AdamW has it:
///   p ← p·(1 − lr·wd);  m ← m + (1 − β1)(g − m);  v ← β2·v + (1 − β2)·g²
///   p ← p − lr/(1 − β1ᵗ) · m / (√v/√(1 − β2ᵗ) + ε)
template <class T>
struct AdamW {
  T keep, lerp1, beta2, one_minus_beta2, step_size, inverse_root_correction2, epsilon;

  AdamW(const OptimizerConfig& config, double lr, double weight_decay, std::int64_t updates)
      : keep(static_cast<T>(1 - lr * weight_decay)),
        lerp1(static_cast<T>(1 - config.beta1)),
        beta2(static_cast<T>(config.beta2)),
        one_minus_beta2(static_cast<T>(1 - config.beta2)),
        step_size(static_cast<T>(lr / (1 - std::pow(config.beta1, static_cast<double>(updates))))),
        inverse_root_correction2(static_cast<T>(
            1 / std::sqrt(1 - std::pow(config.beta2, static_cast<double>(updates))))),
        epsilon(static_cast<T>(config.epsilon)) {}

  void operator()(T* __restrict p, T* __restrict m, T* __restrict v, const T* __restrict g,
                  std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) {
      m[i] += lerp1 * (g[i] - m[i]);
      v[i] = beta2 * v[i] + one_minus_beta2 * g[i] * g[i];
      p[i] =
          keep * p[i] - step_size * m[i] / (std::sqrt(v[i]) * inverse_root_correction2 + epsilon);
    }
  }
};

template <class T>
void sgd(T* __restrict p, const T* __restrict g, T lr, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) p[i] -= lr * g[i];
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
      const at::Tensor g = gradient.defined() ? gradient : at::zeros_like(value);
      const scalar_t* gp = g.const_data_ptr<scalar_t>();
      scalar_t* p = value.mutable_data_ptr<scalar_t>();
      if (config_.type == "sgd") {
        sgd(p, gp, static_cast<scalar_t>(lr), value.numel());
        return;
      }
      scalar_t* m = states_[i].exp_avg.mutable_data_ptr<scalar_t>();
      scalar_t* v = states_[i].exp_avg_sq.mutable_data_ptr<scalar_t>();
      const AdamW<scalar_t> update(config_, lr, parameter.decay ? config_.weight_decay : 0, count);
      at::parallel_for(0, value.numel(), kElementsPerTask, [&](std::int64_t a, std::int64_t b) {
        update(p + a, m + a, v + a, gp + a, b - a);
      });
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
  const double lr = config_.embedding_rate() * factor;
  if (lr == 0) return;
  const std::int64_t rows = weight_nD.size(0), width = weight_nD.size(1);
  const std::int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  AT_DISPATCH_FLOATING_TYPES(weight_nD.scalar_type(), "step_embedding", [&] {
    scalar_t* p = weight_nD.mutable_data_ptr<scalar_t>();
    scalar_t* m = adamw ? table.exp_avg_nD.mutable_data_ptr<scalar_t>() : nullptr;
    scalar_t* v = adamw ? table.exp_avg_sq_nD.mutable_data_ptr<scalar_t>() : nullptr;
    const AdamW<scalar_t> update(config_, lr, 0, updates);
    at::parallel_for(0, blocks, 1, [&](std::int64_t first, std::int64_t last) {
      const at::NoGradGuard no_grad_on_this_thread;
      const at::Tensor buffer_bD =
          at::empty({std::min(kRowsPerBlock, rows), width}, weight_nD.options());
      for (std::int64_t block = first; block < last; ++block) {
        const std::int64_t begin = block * kRowsPerBlock;
        const std::int64_t end = std::min(begin + kRowsPerBlock, rows);
        at::Tensor g = buffer_bD.slice(0, 0, end - begin);
        gradient.rows(begin, end, g);
        const scalar_t* gp = g.const_data_ptr<scalar_t>();
        const std::int64_t at = begin * width, count = (end - begin) * width;
        if (adamw) {
          update(p + at, m + at, v + at, gp, count);
        } else {
          sgd(p + at, gp, static_cast<scalar_t>(lr), count);
        }
      }
    });
  });
}

}  // namespace graphlora
