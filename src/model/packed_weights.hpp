// Products with frozen bf16 weights, which stand ready for a CPU's matrix unit instead of being
// brought into its order at every product. Shapes: T tokens, I inputs, O outputs.
#pragma once
#include <torch/types.h>

#include <map>
#include <optional>
#include <tuple>

#include "core/precision.hpp"

namespace graphlora {

/// Copies of weights that never change and outlive it, made at their first use and kept: one for
/// x·Wᵀ and one for dy·W. Of one thread at a time.
class PackedWeights {
 public:
  /// Whether this machine's CPU has a matrix unit for bf16.
  static bool available();
  /// Whether a model of this precision multiplies by packed weights here.
  static bool serve(const Precision& precision);
  /// The copy for x·Wᵀ if `transposed`, else for dy·W.
  const at::Tensor& of(const at::Tensor& weight_OI, bool transposed);

 private:
  /// Address, rows and columns of a weight, and which of the two products.
  using Key = std::tuple<const void*, std::int64_t, std::int64_t, bool>;
  std::map<Key, at::Tensor> packed_;
};

/// x·Wᵀ (+ added_TO or a bias added_O), rounded once. In bf16 on a CPU with a matrix unit by the
/// copy in `packs`, sums in fp32 in the order of I; ATen's product where `packs` is null,
/// elsewhere, with an odd number of inputs, or with Shortcut::packing off. Local, not
/// differentiable.
at::Tensor times_transposed(PackedWeights* packs, const at::Tensor& x_TI,
                            const at::Tensor& weight_OI, const std::optional<at::Tensor>& added_TO);
/// dy·W in the same way.
at::Tensor times(PackedWeights* packs, const at::Tensor& dy_TO, const at::Tensor& weight_OI);

}  // namespace graphlora
