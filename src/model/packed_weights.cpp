#include "model/packed_weights.hpp"

#include <ATen/core/dispatch/Dispatcher.h>

#include "core/shortcuts.hpp"

namespace graphlora {
namespace {

// Of fewer rows a product is too short for its layout to matter.
constexpr std::int64_t kFewestTokens = 16;
// What a layout is chosen for: one number, so that a run that is resumed multiplies as it did.
constexpr std::int64_t kTokensOfLayout = 1024;

/// LibTorch's own operator, which its headers do not declare.
at::Tensor call(const char* name, const char* overload, torch::jit::Stack arguments) {
  static auto& dispatcher = c10::Dispatcher::singleton();
  dispatcher.findSchemaOrThrow(name, overload).callBoxed(arguments);
  return arguments.front().toTensor();
}

bool packs(const at::Tensor& x, const at::Tensor& weight_OI) {
  return x.is_cpu() && x.scalar_type() == at::kBFloat16 && x.size(0) >= kFewestTokens &&
         weight_OI.is_contiguous() && !is_off(Shortcut::packing) && PackedWeights::available();
}

}  // namespace

bool PackedWeights::available() {
#if defined(__x86_64__)
  static const bool has =
      __builtin_cpu_supports("avx512bf16") &&
      c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", "binary"}).has_value();
  return has;
#else
  return false;
#endif
}

bool PackedWeights::serve(const Precision& precision) {
  return precision.device.is_cpu() && precision.activation == at::kBFloat16 &&
         !is_off(Shortcut::packing) && available();
}

const at::Tensor& PackedWeights::packed(const at::Tensor& weight_OI, bool transposed) {
  at::Tensor& made =
      packed_[{weight_OI.const_data_ptr(), weight_OI.size(0), weight_OI.size(1), transposed}];
  if (!made.defined()) {
    const at::NoGradGuard guard;
    made = call("mkldnn::_reorder_linear_weight", "",
                {transposed ? weight_OI : weight_OI.t().contiguous(), kTokensOfLayout});
  }
  return made;
}

at::Tensor PackedWeights::times_transposed(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                                           const std::optional<at::Tensor>& added_TO) {
  if (!packs(x_TI, weight_OI)) {
    return added_TO ? at::addmm(*added_TO, x_TI, weight_OI.t()) : at::mm(x_TI, weight_OI.t());
  }
  const at::Tensor& w = packed(weight_OI, true);
  if (added_TO && added_TO->dim() == 2) {
    return call("mkldnn::_linear_pointwise", "binary",
                {x_TI, added_TO->contiguous(), w, c10::IValue(), "add"});
  }
  return call("mkldnn::_linear_pointwise", "",
              {x_TI, w, added_TO ? c10::IValue(*added_TO) : c10::IValue(), "none",
               c10::List<std::optional<at::Scalar>>(), ""});
}

at::Tensor PackedWeights::times(const at::Tensor& dy_TO, const at::Tensor& weight_OI) {
  if (!packs(dy_TO, weight_OI)) return at::mm(dy_TO, weight_OI);
  return call("mkldnn::_linear_pointwise", "",
              {dy_TO, packed(weight_OI, false), c10::IValue(), "none",
               c10::List<std::optional<at::Scalar>>(), ""});
}

}  // namespace graphlora
