#include "model/lora_device.hpp"

#include <ATen/Dispatch.h>

#include "core/device_loop.hpp"
#include "model/dropout_kernel.hpp"
#include "model/dropout_mask.hpp"

namespace graphlora {
namespace {

/// The mask as loops read it; without dropout everything is kept.
kernel::FeatureMask mask_of(const DropoutMask& mask, const AdapterDropout& dropout,
                            std::int64_t first_input, std::int64_t features, at::Device device) {
  if (!mask.active()) {
    kernel::FeatureMask all;
    all.first = first_input;
    all.features = features;
    return all;
  }
  TORCH_CHECK(dropout.streams_T.device() == device && dropout.positions_T.device() == device,
              "lora_linear: the tokens' streams are on ", dropout.streams_T.device(), ", x is on ",
              device);
  return mask.features(first_input, features, dropout.streams_T, dropout.positions_T);
}

/// x where it is kept, else 0: exact in any type. The mask's factor comes later.
at::Tensor kept(const at::Tensor& x_TI, const AdapterDropout& dropout, const DropoutMask& mask,
                std::int64_t first_input) {
  if (!mask.active()) return x_TI;
  const kernel::FeatureMask features =
      mask_of(mask, dropout, first_input, x_TI.size(1), x_TI.device());
  const at::Tensor y_TI = at::empty_like(x_TI);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x_TI.scalar_type(), "lora_linear", [&] {
    device_loop(x_TI.device(), "apply_mask", x_TI.size(0), features.columns(),
                kernel::ApplyMask<scalar_t>{features, 1, x_TI.const_data_ptr<scalar_t>(),
                                            y_TI.mutable_data_ptr<scalar_t>()});
  });
  return y_TI;
}

double factor_of(const DropoutMask& mask) { return mask.active() ? mask.scale() : 1; }

}  // namespace

void project_on_device(const at::Tensor& x_TI, const at::Tensor& a_RI,
                       const AdapterDropout& dropout, std::int64_t first_input, at::Tensor& u_TR) {
  const DropoutMask mask(dropout.key, dropout.layer, dropout.group);
  const at::Tensor input = kept(x_TI, dropout, mask, first_input);
  const at::ScalarType type = u_TR.scalar_type();
  // bf16 products are exact in fp32, where the matrix units sum them.
  if (input.is_cuda() && input.scalar_type() == at::kBFloat16) {
    u_TR.copy_(at::mm(input, a_RI.to(at::kBFloat16).t(), type));
  } else {
    at::mm_out(u_TR, input.to(type), a_RI.t());
  }
  if (mask.active()) u_TR.mul_(factor_of(mask));
}

void expand_on_device(const at::Tensor& h_TR, const std::vector<at::Tensor>& b_transposed,
                      std::span<const StackedAdapters::Slice> slices, at::Tensor& y_TO) {
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y_TO.scalar_type(), "lora_linear", [&] {
    using C = kernel::Compute<scalar_t>;
    const C* h = h_TR.const_data_ptr<C>();
    for (std::size_t k = 0; k < slices.size(); ++k) {
      const std::int64_t rank = b_transposed[k].size(0);
      device_loop(y_TO.device(), "expand", y_TO.size(0), slices[k].size,
                  kernel::ExpandSlice<scalar_t>{h, b_transposed[k].const_data_ptr<C>(),
                                                y_TO.mutable_data_ptr<scalar_t>() + slices[k].begin,
                                                h_TR.size(1), y_TO.size(1), rank, slices[k].size});
      h += rank;
    }
  });
}

at::Tensor expand_backward_on_device(const at::Tensor& dy_TO,
                                     const std::vector<at::Tensor>& b_transposed,
                                     std::span<const StackedAdapters::Slice> slices,
                                     const at::Tensor& h_TR, at::Tensor& g_TR) {
  std::vector<at::Tensor> db;
  std::int64_t first = 0;
  for (std::size_t k = 0; k < slices.size(); ++k) {
    const std::int64_t rank = b_transposed[k].size(0);
    const at::Tensor dy = dy_TO.narrow(1, slices[k].begin, slices[k].size).to(g_TR.scalar_type());
    g_TR.narrow(1, first, rank).copy_(at::mm(dy, b_transposed[k].t()));
    if (h_TR.defined()) db.push_back(at::mm(dy.t(), h_TR.narrow(1, first, rank)));
    first += rank;
  }
  return db.empty() ? at::Tensor() : at::cat(db);
}

at::Tensor project_backward_on_device(const at::Tensor& x_TI, const at::Tensor& a_RI,
                                      const AdapterDropout& dropout, std::int64_t first_input,
                                      const at::Tensor& du_TR, at::Tensor& dx_TI) {
  const DropoutMask mask(dropout.key, dropout.layer, dropout.group);
  if (dx_TI.defined()) {
    const kernel::FeatureMask features =
        mask_of(mask, dropout, first_input, dx_TI.size(1), dx_TI.device());
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dx_TI.scalar_type(), "lora_linear", [&] {
      using C = kernel::Compute<scalar_t>;
      device_loop(
          dx_TI.device(), "project_backward", dx_TI.size(0), features.columns(),
          kernel::AddProjectGradient<scalar_t>{features, static_cast<C>(factor_of(mask)),
                                               a_RI.const_data_ptr<C>(), du_TR.const_data_ptr<C>(),
                                               du_TR.size(1), dx_TI.mutable_data_ptr<scalar_t>()});
    });
  }
  if (!x_TI.defined()) return {};
  at::Tensor da_RI =
      at::mm(du_TR.t(), kept(x_TI, dropout, mask, first_input).to(du_TR.scalar_type()));
  return mask.active() ? da_RI.mul_(factor_of(mask)) : da_RI;
}

}  // namespace graphlora
