// Shapes: T tokens, D head_dim, P positions, O = stacked heads·D.
#include "model/rotary.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numbers>
#include <numeric>

#include "core/device_loop.hpp"
#include "model/device_kernels.hpp"
#include "model/rms_norm.hpp"
#include "model/simd.hpp"

namespace graphlora {
namespace {

using simd::Compute;
using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kGrain = 16;

/// Rotates `heads` heads of one row by the angle whose cosines and sines are given, times
/// `direction` (1 or −1).
template <class T>
GRAPHLORA_CLONES void rotate_row(const T* from, T* to, const Compute<T>* cos, const Compute<T>* sin,
                                 int direction, std::int64_t heads, std::int64_t half) {
  using C = Compute<T>;
  for (std::int64_t h = 0; h < heads; ++h, from += 2 * half, to += 2 * half) {
    for (std::int64_t i = 0; i < half; i += kLanes<C>) {
      const Vec<C> a = simd::load(from + i, half - i), b = simd::load(from + half + i, half - i);
      const Vec<C> c = simd::load(cos + i, half - i),
                   s = simd::load(sin + i, half - i) * static_cast<C>(direction);
      simd::store(to + i, a * c - b * s, half - i);
      simd::store(to + half + i, b * c + a * s, half - i);
    }
  }
}

/// n = s·w∘x with s = (mean(x²) + eps)^-1/2 over each head of one row, then n rotated.
template <class T>
GRAPHLORA_CLONES void normalize_and_rotate_row(const T* x, const T* weight, Compute<T> eps, T* to,
                                               const Compute<T>* cos, const Compute<T>* sin,
                                               std::int64_t heads, std::int64_t half) {
  using C = Compute<T>;
  for (std::int64_t h = 0; h < heads; ++h, x += 2 * half, to += 2 * half) {
    Vec<C> squares{};
    for (std::int64_t i = 0; i < 2 * half; i += kLanes<C>) {
      const Vec<C> v = simd::load(x + i, 2 * half - i);
      squares += v * v;
    }
    const C scale = 1 / std::sqrt(simd::sum(squares) / static_cast<C>(2 * half) + eps);
    for (std::int64_t i = 0; i < half; i += kLanes<C>) {
      const std::int64_t n = half - i;
      const Vec<C> a = simd::load(x + i, n) * scale * simd::load(weight + i, n),
                   b = simd::load(x + half + i, n) * scale * simd::load(weight + half + i, n);
      const Vec<C> c = simd::load(cos + i, n), s = simd::load(sin + i, n);
      simd::store(to + i, a * c - b * s, n);
      simd::store(to + half + i, b * c + a * s, n);
    }
  }
}

/// Gradients of a head's normalized halves, times the weights, from lane i on.
template <class T>
GRAPHLORA_INLINE void rotate_back(const T* dy, const T* weight, const Compute<T>* cos,
                                  const Compute<T>* sin, std::int64_t i, std::int64_t half,
                                  Vec<Compute<T>>& da, Vec<Compute<T>>& db) {
  using V = Vec<Compute<T>>;
  const std::int64_t n = half - i;
  const V a = simd::load(dy + i, n), b = simd::load(dy + half + i, n);
  const V c = simd::load(cos + i, n), s = simd::load(sin + i, n);
  da = (a * c + b * s) * simd::load(weight + i, n);
  db = (b * c - a * s) * simd::load(weight + half + i, n);
}

/// Its adjoint, with g = w∘(dy rotated back): dx = s·g − x·(s³/D)·Σ(g∘x).
template <class T>
GRAPHLORA_CLONES void normalize_and_rotate_row_backward(const T* x, const T* weight, Compute<T> eps,
                                                        const T* dy, T* dx, const Compute<T>* cos,
                                                        const Compute<T>* sin, std::int64_t heads,
                                                        std::int64_t half) {
  using C = Compute<T>;
  const auto dim = static_cast<C>(2 * half);
  for (std::int64_t h = 0; h < heads; ++h, x += 2 * half, dy += 2 * half, dx += 2 * half) {
    Vec<C> squares{}, products{}, da, db;
    for (std::int64_t i = 0; i < half; i += kLanes<C>) {
      const Vec<C> a = simd::load(x + i, half - i), b = simd::load(x + half + i, half - i);
      rotate_back(dy, weight, cos, sin, i, half, da, db);
      squares += a * a + b * b;
      products += a * da + b * db;
    }
    const C scale = 1 / std::sqrt(simd::sum(squares) / dim + eps);
    const C along = simd::sum(products) * scale * scale * scale / dim;
    for (std::int64_t i = 0; i < half; i += kLanes<C>) {
      const Vec<C> a = simd::load(x + i, half - i), b = simd::load(x + half + i, half - i);
      rotate_back(dy, weight, cos, sin, i, half, da, db);
      simd::store(dx + i, da * scale - a * along, half - i);
      simd::store(dx + half + i, db * scale - b * along, half - i);
    }
  }
}

/// Where a pass goes: forward from the stacked rows to the parts, backward the other way.
struct Pass {
  bool forward;
  at::Tensor x_TO = {};  ///< backward: the forward's stacked rows, if a part has a norm
};

/// Copies between the stacked rows and the parts; normalizes and rotates on the way, or does the
/// adjoint.
void exchange(at::Tensor& stacked_TO, std::vector<at::Tensor>& parts, std::int64_t rotated,
              const RotaryTable& table, const at::Tensor& positions_T, const HeadNorms& norms,
              const Pass& pass) {
  const std::int64_t rows = stacked_TO.size(0), width = stacked_TO.size(1),
                     half = table.cos_PD.size(1);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, stacked_TO.scalar_type(), "split_and_rotate", [&] {
    using C = Compute<scalar_t>;
    const auto* cos = table.cos_PD.const_data_ptr<C>();
    const auto* sin = table.sin_PD.const_data_ptr<C>();
    const auto* positions = positions_T.const_data_ptr<std::int64_t>();
    const auto eps = static_cast<C>(norms.eps);
    auto* stacked = stacked_TO.data_ptr<scalar_t>();
    if (takes_device_path(stacked_TO, Shortcut::rotary)) {  // norms were taken apart before
      const std::int64_t limit = table.positions();
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const std::int64_t heads = parts[p].size(1), size = heads * 2 * half;
        const bool turns = static_cast<std::int64_t>(p) < rotated;
        scalar_t* part = parts[p].data_ptr<scalar_t>();
        kernel::RotatePart<scalar_t> body{part, stacked,   size,  width, turns ? cos : nullptr,
                                          sin,  positions, limit, half,  -1};
        if (pass.forward)
          body = {stacked, part,      width, size, turns ? cos : nullptr,
                  sin,     positions, limit, half, 1};
        device_loop(stacked_TO.device(), "rotate", rows, heads * half, body);
        stacked += size;
      }
      return;
    }
    const auto* x = pass.x_TO.defined() ? pass.x_TO.const_data_ptr<scalar_t>() : nullptr;
    struct Part {
      scalar_t* data;
      std::int64_t begin, heads;  // in the stacked row
      const scalar_t* weight;
    };
    std::vector<Part> list;
    std::int64_t next = 0;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const bool normed = p < norms.weights_D.size() && norms.weights_D[p].defined();
      list.push_back({parts[p].data_ptr<scalar_t>(), next, parts[p].size(1),
                      normed ? norms.weights_D[p].const_data_ptr<scalar_t>() : nullptr});
      next += parts[p].size(1) * 2 * half;
    }
    at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const C *c = cos + positions[t] * half, *s = sin + positions[t] * half;
        for (std::size_t p = 0; p < list.size(); ++p) {
          const auto& [data, first, heads, weight] = list[p];
          scalar_t* row = stacked + t * width + first;
          scalar_t* other = data + t * heads * 2 * half;
          const scalar_t* from = pass.forward ? row : other;
          scalar_t* to = pass.forward ? other : row;
          if (static_cast<std::int64_t>(p) >= rotated) {
            std::copy_n(from, heads * 2 * half, to);
          } else if (weight == nullptr) {
            rotate_row(from, to, c, s, pass.forward ? 1 : -1, heads, half);
          } else if (pass.forward) {
            normalize_and_rotate_row(from, weight, eps, to, c, s, heads, half);
          } else {
            normalize_and_rotate_row_backward(x + t * width + first, weight, eps, from, to, c, s,
                                              heads, half);
          }
        }
      }
    });
  });
}

/// Per rotated head with halves a, b and angle φ: (a, b) → (a·cos φ − b·sin φ, b·cos φ + a·sin φ).
/// Adjoint: the rotation by −φ. Parts that are not rotated are copied both ways. For norms see
/// normalize_and_rotate_row; their weights are frozen and have no gradient.
struct SplitAndRotate : torch::autograd::Function<SplitAndRotate> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& x_TO,
                                                const std::vector<std::int64_t>& heads,
                                                std::int64_t rotated, const RotaryTable& table,
                                                const at::Tensor& positions_T,
                                                const HeadNorms& norms) {
    at::Tensor x = x_TO.contiguous();
    std::vector<at::Tensor> parts;
    for (const std::int64_t n : heads)
      parts.push_back(at::empty({x.size(0), n, 2 * table.cos_PD.size(1)}, x.options()));
    exchange(x, parts, rotated, table, positions_T, norms, {.forward = true});
    ctx->saved_data["width"] = x.size(1);
    ctx->saved_data["rotated"] = rotated;
    ctx->saved_data["eps"] = norms.eps;
    torch::autograd::variable_list saved{table.cos_PD, table.sin_PD, positions_T, at::Tensor()};
    for (const at::Tensor& weight_D : norms.weights_D) {
      if (weight_D.defined()) saved[3] = x_TO;
      saved.push_back(weight_D);
    }
    ctx->save_for_backward(std::move(saved));
    return parts;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    for (at::Tensor& g : gradients) g = g.contiguous();
    at::Tensor dx_TO =
        at::empty({gradients[0].size(0), ctx->saved_data["width"].toInt()}, gradients[0].options());
    const HeadNorms norms{{saved.begin() + 4, saved.end()}, ctx->saved_data["eps"].toDouble()};
    exchange(dx_TO, gradients, ctx->saved_data["rotated"].toInt(), {saved[0], saved[1]}, saved[2],
             norms,
             {.forward = false, .x_TO = saved[3].defined() ? saved[3].contiguous() : saved[3]});
    return {dx_TO, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

/// HF's stretching of the frequencies f_i: linear divides all; llama3 divides those whose wave is
/// longer than original/low, keeps those shorter than original/high, and goes from one to the other
/// in between.
at::Tensor stretched(const at::Tensor& frequencies_D, const RopeScaling& scaling) {
  if (scaling.type == RopeScaling::Type::none) return frequencies_D;
  const at::Tensor divided_D = frequencies_D / scaling.factor;
  if (scaling.type == RopeScaling::Type::linear) return divided_D;
  const auto original = static_cast<double>(scaling.original_positions);
  const at::Tensor turns_D = frequencies_D * (original / (2 * std::numbers::pi));
  const at::Tensor share_D =
      ((turns_D - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor))
          .clamp(0, 1);
  return divided_D * (1 - share_D) + frequencies_D * share_D;
}

/// The norms as a pass of their own, where the rotation's kernel has none.
at::Tensor normalize_heads(const at::Tensor& x_TO, const std::vector<std::int64_t>& heads,
                           const HeadNorms& norms) {
  std::vector<at::Tensor> parts;
  std::int64_t begin = 0;
  const std::int64_t total = std::accumulate(heads.begin(), heads.end(), std::int64_t{0}),
                     dim = x_TO.size(1) / total;
  for (std::size_t p = 0; p < heads.size(); ++p) {
    at::Tensor part = x_TO.narrow(1, begin, heads[p] * dim);
    begin += heads[p] * dim;
    if (p < norms.weights_D.size() && norms.weights_D[p].defined()) {
      part = rms_norm(part.reshape({-1, dim}), norms.weights_D[p], norms.eps)
                 .normed_TH.reshape({x_TO.size(0), heads[p] * dim});
    }
    parts.push_back(part);
  }
  return at::cat(parts, 1);
}

}  // namespace

RotaryTable RotaryTable::make(std::int64_t positions, std::int64_t head_dim, double theta,
                              at::ScalarType activation, const RopeScaling& scaling) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor exponents_D =
      at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const at::Tensor frequencies_D = stretched(at::exp(exponents_D * -std::log(theta)), scaling);
  const at::Tensor angles_PD = at::outer(at::arange(positions, options), frequencies_D);
  const auto type = activation == at::kDouble ? at::kDouble : at::kFloat;
  return {angles_PD.cos().to(type), angles_PD.sin().to(type)};
}

std::vector<at::Tensor> split_and_rotate(const at::Tensor& x_TO,
                                         const std::vector<std::int64_t>& heads,
                                         std::int64_t rotated, const RotaryTable& table,
                                         const at::Tensor& positions_T, const HeadNorms& norms) {
  const std::int64_t total = std::accumulate(heads.begin(), heads.end(), std::int64_t{0});
  TORCH_CHECK(x_TO.dim() == 2 && x_TO.size(1) == total * 2 * table.cos_PD.size(1) &&
                  positions_T.is_contiguous() && positions_T.scalar_type() == at::kLong &&
                  positions_T.size(0) == x_TO.size(0) && positions_T.device() == x_TO.device() &&
                  table.cos_PD.device() == x_TO.device(),
              "split_and_rotate: shapes or devices do not agree");
  TORCH_CHECK(static_cast<std::int64_t>(norms.weights_D.size()) <= rotated,
              "split_and_rotate: a norm of a part that is not rotated");
  bool normed = false;
  for (const at::Tensor& weight_D : norms.weights_D) {
    normed = normed || weight_D.defined();
    TORCH_CHECK(!weight_D.defined() ||
                    (weight_D.dim() == 1 && weight_D.size(0) == 2 * table.cos_PD.size(1) &&
                     weight_D.is_contiguous() && weight_D.scalar_type() == x_TO.scalar_type()),
                "split_and_rotate: a norm's shape or type does not agree");
  }
  if (normed && takes_device_path(x_TO, Shortcut::rotary)) {
    return split_and_rotate(normalize_heads(x_TO, heads, norms), heads, rotated, table, positions_T,
                            {});
  }
  return SplitAndRotate::apply(x_TO, heads, rotated, table, positions_T, norms);
}

}  // namespace graphlora
