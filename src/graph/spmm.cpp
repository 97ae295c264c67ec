// Shapes: n owned rows, t targets, k hubs, o own hubs, h halo rows, m = n + k + h, C columns.
#include "graph/spmm.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include "core/shortcuts.hpp"
#include "graph/halo_exchange.hpp"
#include "graph/plan_context.hpp"
#include "graph/row_sum.hpp"

namespace graphlora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Factors (n, 1) of sources and of targets; undefined: 1.
struct Scales {
  at::Tensor right_n1, left_n1;
};

Scales scales_of(const GraphPlan& plan, Normalization normalization, const at::Tensor& like) {
  const at::Tensor degree_n1 = plan.degree_n.to(like.device()).unsqueeze(1).to(like.options());
  switch (normalization) {
    case Normalization::symmetric: {
      const at::Tensor scale_n1 = degree_n1.rsqrt().masked_fill_(degree_n1 == 0, 0);
      return {scale_n1, scale_n1};
    }
    case Normalization::mean:
      return {{}, degree_n1.reciprocal().masked_fill_(degree_n1 == 0, 0)};
    case Normalization::with_self_loops: {
      const at::Tensor scale_n1 = (degree_n1 + 1).rsqrt();
      return {scale_n1, scale_n1};
    }
  }
  return {};
}

void scaled_into(const at::Tensor& x_nC, const at::Tensor& scale_n1, at::Tensor out_nC) {
  if (scale_n1.defined()) {
    at::mul_out(out_nC, x_nC, scale_n1.narrow(0, 0, x_nC.size(0)));
  } else {
    out_nC.copy_(x_nC);
  }
}

// y_tC = A·x for an x_mC whose owned rows are filled.
at::Tensor multiply(at::Tensor x_mC, const GraphPlan& plan, Communicator& world) {
  const auto device = x_mC.device();
  // Hubs first: on CUDA operations complete in the order they are issued, and interior rows, which
  // hide the halo, wait for the hubs.
  const at::Tensor hub_rows_o = plan.hub_rows.to(device);
  auto hubs = HubTransfer::gather(x_mC.index_select(0, hub_rows_o),
                                  x_mC.narrow(0, plan.owned, plan.hubs), plan, world);
  const bool at_once = is_off(Shortcut::overlap);
  auto halo = HaloTransfer::forward(x_mC, plan, world);
  if (at_once) halo.wait();
  const at::Tensor partial_kC = at::empty({plan.hubs, x_mC.size(1)}, x_mC.options());
  row_sum(plan.hub_in, x_mC, plan.owned, {}, partial_kC, 0, plan.hubs);
  const at::Tensor own_oC = at::empty({hub_rows_o.size(0), x_mC.size(1)}, x_mC.options());
  auto sums = HubTransfer::reduce(partial_kC, own_oC, plan, world);

  at::Tensor y_tC = at::empty({plan.targets, x_mC.size(1)}, x_mC.options());
  hubs.wait();
  row_sum(plan.in_edges, x_mC, plan.sources(), {}, y_tC, 0, plan.interior);
  if (!at_once) halo.wait();
  row_sum(plan.in_edges, x_mC, plan.sources(), {}, y_tC, plan.interior, plan.targets);
  sums.wait();
  const at::Tensor chosen = plan.hub_targets.to(device);
  if (chosen.numel() > 0) {
    y_tC.index_copy_(0, hub_rows_o.index_select(0, chosen), own_oC.index_select(0, chosen));
  }
  return y_tC;
}

// gx_nC = Aᵀ·g for a g_(t+k)C whose first t rows are filled.
at::Tensor multiply_transposed(at::Tensor g_tkC, const GraphPlan& plan, Communicator& world) {
  const auto device = g_tkC.device();
  const std::int64_t width = g_tkC.size(1);
  const at::Tensor hub_rows_o = plan.hub_rows.to(device), chosen = plan.hub_targets.to(device);
  at::Tensor own_oC = at::zeros({hub_rows_o.size(0), width}, g_tkC.options());
  if (chosen.numel() > 0) {
    own_oC.index_copy_(0, chosen, g_tkC.index_select(0, hub_rows_o.index_select(0, chosen)));
  }
  auto hubs = HubTransfer::gather(own_oC, g_tkC.narrow(0, plan.targets, plan.hubs), plan, world);
  at::Tensor gx_mC = at::empty({plan.sources(), width}, g_tkC.options());
  row_sum(plan.halo_uses, g_tkC, plan.targets, {},
          gx_mC.narrow(0, plan.owned + plan.hubs, plan.halo_slots), 0, plan.halo_slots);
  const at::Tensor gx_nC = gx_mC.narrow(0, 0, plan.owned);
  const auto sum_owned = [&] {
    hubs.wait();
    row_sum(plan.out_edges, g_tkC, plan.targets + plan.hubs, {}, gx_nC, 0, plan.owned);
  };
  // What comes home is added to the sums of owned rows, so these come first where nothing overlaps.
  const bool at_once = is_off(Shortcut::overlap);
  if (at_once) sum_owned();
  auto halo = HaloTransfer::adjoint(gx_mC, plan, world);
  if (at_once) halo.wait();
  const at::Tensor partial_kC = gx_mC.narrow(0, plan.owned, plan.hubs);
  row_sum(plan.hub_out, g_tkC, plan.targets, {}, partial_kC, 0, plan.hubs);
  const at::Tensor sums_oC = at::empty_like(own_oC);
  auto sums = HubTransfer::reduce(partial_kC, sums_oC, plan, world);

  if (!at_once) {
    sum_owned();
    halo.wait();
  }
  sums.wait();
  if (sums_oC.size(0) > 0) gx_nC.index_add_(0, hub_rows_o, sums_oC);
  return gx_nC;
}

/// y = l⊙(A·(r⊙x) + self·(r⊙x)); gx = r⊙(Aᵀ·(l⊙gy) + self·(l⊙gy)).
struct Propagate : torch::autograd::Function<Propagate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_nC, const GraphPlan& plan,
                            Communicator& world, Normalization normalization) {
    PlanContext::save(context, plan, &world);
    context->saved_data["normalization"] = static_cast<std::int64_t>(normalization);
    const Scales scales = scales_of(plan, normalization, x_nC);
    at::Tensor x_mC = at::empty({plan.sources(), x_nC.size(1)}, x_nC.options());
    scaled_into(x_nC, scales.right_n1, x_mC.narrow(0, 0, plan.owned));
    at::Tensor y_tC = multiply(x_mC, plan, world);
    if (normalization == Normalization::with_self_loops) y_tC.add_(x_mC.narrow(0, 0, plan.targets));
    return y_tC.mul_(scales.left_n1.narrow(0, 0, plan.targets));
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = PlanContext::load(context);
    const auto normalization =
        static_cast<Normalization>(context->saved_data.at("normalization").toInt());
    return {propagate_adjoint(grads[0], saved->plan, *saved->world, normalization), at::Tensor(),
            at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor propagate(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world,
                     Normalization normalization) {
  TORCH_CHECK(x_nC.dim() == 2 && x_nC.size(0) == plan.owned, "propagate: ", x_nC.sizes(),
              " is not (", plan.owned, ", C)");
  return Propagate::apply(x_nC, plan, world, normalization);
}

at::Tensor propagate_adjoint(const at::Tensor& g_tC, const GraphPlan& plan, Communicator& world,
                             Normalization normalization) {
  const Scales scales = scales_of(plan, normalization, g_tC);
  at::Tensor g_tkC = at::empty({plan.targets + plan.hubs, g_tC.size(1)}, g_tC.options());
  scaled_into(g_tC, scales.left_n1, g_tkC.narrow(0, 0, plan.targets));
  const at::Tensor gx_nC = multiply_transposed(g_tkC, plan, world);
  if (normalization == Normalization::with_self_loops)
    gx_nC.narrow(0, 0, plan.targets).add_(g_tkC.narrow(0, 0, plan.targets));
  return scales.right_n1.defined() ? gx_nC.mul_(scales.right_n1) : gx_nC;
}

}  // namespace graphlora
