// Shapes: T tokens, H hidden.
#include "model/rms_norm.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/device_loop.hpp"
#include "model/device_kernels.hpp"
#include "model/simd.hpp"

namespace graphlora {
namespace {

using simd::Compute;
using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kGrain = 16;  // rows a thread takes at least

template <class T>
GRAPHLORA_CLONES void forward_rows(const T* x, const T* weight, T* y, Compute<T>* inverse_rms,
                                   std::int64_t rows, std::int64_t width, double eps) {
  using C = Compute<T>;
  for (std::int64_t t = 0; t < rows; ++t, x += width, y += width) {
    Vec<C> squares{};
    for (std::int64_t i = 0; i < width; i += kLanes<C>) {
      const Vec<C> v = simd::load(x + i, width - i);
      squares += v * v;
    }
    const C scale = static_cast<C>(1) / std::sqrt(simd::sum(squares) / width + static_cast<C>(eps));
    inverse_rms[t] = scale;
    for (std::int64_t i = 0; i < width; i += kLanes<C>) {
      simd::store(y + i, simd::load(x + i, width - i) * scale * simd::load(weight + i, width - i),
                  width - i);
    }
  }
}

template <class T>
GRAPHLORA_CLONES void backward_rows(const T* x, const T* weight, const Compute<T>* inverse_rms,
                                    const T* dy, const T* dstream, T* dx, std::int64_t rows,
                                    std::int64_t width) {
  using C = Compute<T>;
  for (std::int64_t t = 0; t < rows; ++t, x += width, dy += width, dx += width, dstream += width) {
    Vec<C> products{};
    for (std::int64_t i = 0; i < width; i += kLanes<C>) {
      products += simd::load(x + i, width - i) * simd::load(dy + i, width - i) *
                  simd::load(weight + i, width - i);
    }
    const C scale = inverse_rms[t];
    const C along = simd::sum(products) * scale * scale * scale / width;
    for (std::int64_t i = 0; i < width; i += kLanes<C>) {
      const Vec<C> direct =
          simd::load(dy + i, width - i) * simd::load(weight + i, width - i) * scale;
      simd::store(
          dx + i,
          simd::load(dstream + i, width - i) + direct - simd::load(x + i, width - i) * along,
          width - i);
    }
  }
}

/// y = s·w∘x with s = (mean(x²) + eps)^-1/2, and x passed through. Adjoint, with e the gradient of
/// the x passed through: dx = e + s·(w∘dy) − x·(s³/H)·Σ(w∘dy∘x). The weight is frozen and has none.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& x_TH, const at::Tensor& weight_H,
                                                double eps) {
    const at::Tensor x = x_TH.contiguous();
    const std::int64_t rows = x.size(0), width = x.size(1);
    at::Tensor y_TH = at::empty_like(x);
    at::Tensor inverse_rms_T = at::empty(
        {rows}, x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm", [&] {
      using C = Compute<scalar_t>;
      if (takes_device_path(x, Shortcut::norms)) {
        const auto* from = x.const_data_ptr<scalar_t>();
        C* inverse_rms = inverse_rms_T.mutable_data_ptr<C>();
        device_row_sums(x.device(), "inverse_rms", rows,
                        kernel::InverseRms<scalar_t>{from, width, eps, inverse_rms});
        device_loop(
            x.device(), "rms_scale", rows, width,
            kernel::RmsScale<scalar_t>{from, weight_H.const_data_ptr<scalar_t>(), inverse_rms,
                                       width, y_TH.mutable_data_ptr<scalar_t>()});
        return;
      }
      at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
        forward_rows(x.const_data_ptr<scalar_t>() + begin * width,
                     weight_H.const_data_ptr<scalar_t>(), y_TH.data_ptr<scalar_t>() + begin * width,
                     inverse_rms_T.data_ptr<C>() + begin, end - begin, width, eps);
      });
    });
    ctx->save_for_backward({x_TH, weight_H, inverse_rms_T});
    return {x_TH, y_TH};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor x = saved[0].contiguous();
    const at::Tensor& weight_H = saved[1];
    const at::Tensor& inverse_rms_T = saved[2];
    const at::Tensor dstream = gradients[0].contiguous(), dy = gradients[1].contiguous();
    const std::int64_t rows = x.size(0), width = x.size(1);
    at::Tensor dx_TH = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm_backward", [&] {
      using C = Compute<scalar_t>;
      if (takes_device_path(x, Shortcut::norms)) {
        const at::Tensor along_T = at::empty_like(inverse_rms_T);
        const auto *from = x.const_data_ptr<scalar_t>(), *gradient = dy.const_data_ptr<scalar_t>(),
                   *weight = weight_H.const_data_ptr<scalar_t>();
        const C* inverse_rms = inverse_rms_T.const_data_ptr<C>();
        C* along = along_T.mutable_data_ptr<C>();
        device_row_sums(
            x.device(), "rms_along", rows,
            kernel::RmsAlong<scalar_t>{from, weight, gradient, inverse_rms, width, along});
        device_loop(x.device(), "rms_gradient", rows, width,
                    kernel::RmsGradient<scalar_t>{
                        from, weight, gradient, dstream.const_data_ptr<scalar_t>(), inverse_rms,
                        along, width, dx_TH.mutable_data_ptr<scalar_t>()});
        return;
      }
      at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t at = begin * width;
        backward_rows(x.const_data_ptr<scalar_t>() + at, weight_H.const_data_ptr<scalar_t>(),
                      inverse_rms_T.const_data_ptr<C>() + begin, dy.const_data_ptr<scalar_t>() + at,
                      dstream.const_data_ptr<scalar_t>() + at, dx_TH.data_ptr<scalar_t>() + at,
                      end - begin, width);
      });
    });
    return {dx_TH, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

Normalized rms_norm(const at::Tensor& x_TH, const at::Tensor& weight_H, double eps) {
  TORCH_CHECK(x_TH.dim() == 2 && weight_H.dim() == 1 && x_TH.size(1) == weight_H.size(0) &&
                  x_TH.scalar_type() == weight_H.scalar_type() && weight_H.is_contiguous() &&
                  x_TH.device() == weight_H.device(),
              "rms_norm: shapes, types or devices of input and weight differ");
  const auto outputs = RmsNorm::apply(x_TH, weight_H, eps);
  return {is_off(Shortcut::residual) ? x_TH : outputs[0], outputs[1]};
}

}  // namespace graphlora
