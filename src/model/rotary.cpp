// Shapes: T tokens, D head_dim, P positions, O = stacked heads·D.
#include "model/rotary.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numeric>

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

/// Copies between the stacked rows x_TO and the parts, rotating the first ones on the way.
void exchange(at::Tensor& stacked_TO, std::vector<at::Tensor>& parts, std::int64_t rotated,
              const RotaryTable& table, const at::Tensor& positions_T, bool split) {
  const std::int64_t rows = stacked_TO.size(0), width = stacked_TO.size(1),
                     half = table.cos_PD.size(1);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, stacked_TO.scalar_type(), "split_and_rotate", [&] {
    using C = Compute<scalar_t>;
    const auto* cos = table.cos_PD.const_data_ptr<C>();
    const auto* sin = table.sin_PD.const_data_ptr<C>();
    const auto* positions = positions_T.const_data_ptr<std::int64_t>();
    auto* stacked = stacked_TO.data_ptr<scalar_t>();
    std::vector<scalar_t*> part(parts.size());
    for (std::size_t p = 0; p < parts.size(); ++p) part[p] = parts[p].data_ptr<scalar_t>();
    at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        scalar_t* row = stacked + t * width;
        for (std::size_t p = 0; p < parts.size(); ++p) {
          const std::int64_t heads = parts[p].size(1), size = heads * 2 * half;
          scalar_t* other = part[p] + t * size;
          const scalar_t* from = split ? row : other;
          scalar_t* to = split ? other : row;
          if (static_cast<std::int64_t>(p) < rotated) {
            rotate_row(from, to, cos + positions[t] * half, sin + positions[t] * half,
                       split ? 1 : -1, heads, half);
          } else {
            std::copy_n(from, size, to);
          }
          row += size;
        }
      }
    });
  });
}

/// Per rotated head with halves a, b and angle φ: (a, b) → (a·cos φ − b·sin φ, b·cos φ + a·sin φ).
/// Adjoint: the rotation by −φ. Parts that are not rotated are copied both ways.
struct SplitAndRotate : torch::autograd::Function<SplitAndRotate> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& x_TO,
                                                const std::vector<std::int64_t>& heads,
                                                std::int64_t rotated, const RotaryTable& table,
                                                const at::Tensor& positions_T) {
    at::Tensor x = x_TO.contiguous();
    std::vector<at::Tensor> parts;
    for (const std::int64_t n : heads)
      parts.push_back(at::empty({x.size(0), n, 2 * table.cos_PD.size(1)}, x.options()));
    exchange(x, parts, rotated, table, positions_T, true);
    ctx->saved_data["width"] = x.size(1);
    ctx->saved_data["rotated"] = rotated;
    ctx->save_for_backward({table.cos_PD, table.sin_PD, positions_T});
    return parts;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    for (at::Tensor& g : gradients) g = g.contiguous();
    at::Tensor dx_TO =
        at::empty({gradients[0].size(0), ctx->saved_data["width"].toInt()}, gradients[0].options());
    exchange(dx_TO, gradients, ctx->saved_data["rotated"].toInt(), {saved[0], saved[1]}, saved[2],
             false);
    return {dx_TO, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RotaryTable RotaryTable::make(std::int64_t positions, std::int64_t head_dim, double theta,
                              at::ScalarType activation) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor exponents_D =
      at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const at::Tensor frequencies_D = at::exp(exponents_D * -std::log(theta));
  const at::Tensor angles_PD = at::outer(at::arange(positions, options), frequencies_D);
  const auto type = activation == at::kDouble ? at::kDouble : at::kFloat;
  return {angles_PD.cos().to(type), angles_PD.sin().to(type)};
}

std::vector<at::Tensor> split_and_rotate(const at::Tensor& x_TO,
                                         const std::vector<std::int64_t>& heads,
                                         std::int64_t rotated, const RotaryTable& table,
                                         const at::Tensor& positions_T) {
  const std::int64_t total = std::accumulate(heads.begin(), heads.end(), std::int64_t{0});
  TORCH_CHECK(x_TO.dim() == 2 && x_TO.size(1) == total * 2 * table.cos_PD.size(1) &&
                  positions_T.is_contiguous() && positions_T.scalar_type() == at::kLong &&
                  positions_T.size(0) == x_TO.size(0),
              "split_and_rotate: shapes do not agree");
  return SplitAndRotate::apply(x_TO, heads, rotated, table, positions_T);
}

}  // namespace graphlora
