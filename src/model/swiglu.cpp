// Shapes: T tokens, I intermediate.
#include "model/swiglu.hpp"

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

constexpr std::int64_t kGrain = 8;

template <class T>
GRAPHLORA_CLONES void forward_rows(const T* gate_up, T* y, std::int64_t rows, std::int64_t width) {
  using C = Compute<T>;
  for (std::int64_t t = 0; t < rows; ++t, gate_up += 2 * width, y += width) {
    for (std::int64_t i = 0; i < width; i += kLanes<C>) {
      const Vec<C> gate = simd::load(gate_up + i, width - i),
                   up = simd::load(gate_up + width + i, width - i);
      simd::store(y + i, gate * simd::sigmoid(gate) * up, width - i);
    }
  }
}

template <class T>
GRAPHLORA_CLONES void backward_rows(const T* gate_up, const T* dy, T* dgate_up, std::int64_t rows,
                                    std::int64_t width) {
  using C = Compute<T>;
  for (std::int64_t t = 0; t < rows;
       ++t, gate_up += 2 * width, dgate_up += 2 * width, dy += width) {
    for (std::int64_t i = 0; i < width; i += kLanes<C>) {
      const Vec<C> gate = simd::load(gate_up + i, width - i),
                   up = simd::load(gate_up + width + i, width - i);
      const Vec<C> gradient = simd::load(dy + i, width - i), s = simd::sigmoid(gate);
      simd::store(dgate_up + i, gradient * up * s * (1 + gate * (1 - s)), width - i);
      simd::store(dgate_up + width + i, gradient * gate * s, width - i);
    }
  }
}

/// y = g·σ(g)·u. Adjoint: dg = dy·u·σ(g)·(1 + g·(1 − σ(g))), du = dy·g·σ(g).
struct Swiglu : torch::autograd::Function<Swiglu> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& gate_up_T2I) {
    const at::Tensor x = gate_up_T2I.contiguous();
    const std::int64_t rows = x.size(0), width = x.size(1) / 2;
    at::Tensor y_TI = at::empty({rows, width}, x.options());
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "swiglu", [&] {
      if (takes_device_path(x, Shortcut::swiglu)) {
        device_loop(x.device(), "swiglu", rows, width,
                    kernel::SwigluForward<scalar_t>{x.const_data_ptr<scalar_t>(), width,
                                                    y_TI.mutable_data_ptr<scalar_t>()});
        return;
      }
      at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
        forward_rows(x.const_data_ptr<scalar_t>() + begin * 2 * width,
                     y_TI.data_ptr<scalar_t>() + begin * width, end - begin, width);
      });
    });
    ctx->save_for_backward({gate_up_T2I});
    return y_TI;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const at::Tensor x = ctx->get_saved_variables()[0].contiguous();
    const at::Tensor dy = gradients[0].contiguous();
    const std::int64_t rows = x.size(0), width = x.size(1) / 2;
    at::Tensor dx_T2I = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "swiglu_backward", [&] {
      if (takes_device_path(x, Shortcut::swiglu)) {
        device_loop(x.device(), "swiglu_backward", rows, width,
                    kernel::SwigluBackward<scalar_t>{x.const_data_ptr<scalar_t>(),
                                                     dy.const_data_ptr<scalar_t>(), width,
                                                     dx_T2I.mutable_data_ptr<scalar_t>()});
        return;
      }
      at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
        backward_rows(x.const_data_ptr<scalar_t>() + begin * 2 * width,
                      dy.const_data_ptr<scalar_t>() + begin * width,
                      dx_T2I.data_ptr<scalar_t>() + begin * 2 * width, end - begin, width);
      });
    });
    return {dx_T2I};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up_T2I) {
  TORCH_CHECK(gate_up_T2I.dim() == 2 && gate_up_T2I.size(1) % 2 == 0,
              "swiglu: input must be (T, 2I)");
  return Swiglu::apply(gate_up_T2I);
}

}  // namespace graphlora
