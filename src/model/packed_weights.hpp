// Frozen bf16 weights in the layout of oneDNN's products, made once instead of at every product.
// Shapes: T tokens, I inputs, O outputs.
#pragma once
#include <torch/types.h>

#include <map>
#include <optional>
#include <tuple>

#include "core/precision.hpp"

namespace graphlora {

/// Products with weights that never change and outlive it, on the CPU in bf16 where it multiplies
/// bf16 itself: x·Wᵀ and dy·W each from a copy of W packed at its first use and kept. Everything
/// else, and all of it with Shortcut::packing off, goes to ATen's product. Of one thread at a time.
class PackedWeights {
 public:
  /// Whether this machine's CPU has bf16 products.
  static bool available();
  /// Whether a model of this precision multiplies by packed weights here.
  static bool serve(const Precision& precision);

  /// x·Wᵀ (+ added_TO), rounded once.
  at::Tensor times_transposed(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                              const std::optional<at::Tensor>& added_TO);
  /// dy·W.
  at::Tensor times(const at::Tensor& dy_TO, const at::Tensor& weight_OI);

 private:
  /// Address, rows and columns of a weight, and which of the two products.
  using Key = std::tuple<const void*, std::int64_t, std::int64_t, bool>;
  const at::Tensor& packed(const at::Tensor& weight_OI, bool transposed);
  std::map<Key, at::Tensor> packed_;
};

}  // namespace graphlora
