#include "graph/spmm.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include "graph/halo_exchange.hpp"
#include "graph/plan_context.hpp"
#include "graph/row_sum.hpp"

namespace graphlora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// gx of an owned row: its own entries with owned columns, since that block is symmetric. Of a halo
// row: the rows that use it.
void transpose_owned(const at::Tensor& g_nC, const GraphPlan& plan, const at::Tensor& gx_mC) {
  row_sum(plan.in_edges, g_nC, plan.owned, {}, gx_mC.narrow(0, 0, plan.owned), 0, plan.owned);
}
void transpose_halo(const at::Tensor& g_nC, const GraphPlan& plan, const at::Tensor& gx_mC) {
  row_sum(plan.halo_uses, g_nC, plan.owned, {}, gx_mC.narrow(0, plan.owned, plan.halo_slots), 0,
          plan.halo_slots);
}
void multiply(const at::Tensor& x_mC, const GraphPlan& plan, const at::Tensor& y_nC,
              std::int64_t first, std::int64_t last) {
  row_sum(plan.in_edges, x_mC, plan.owned + plan.halo_slots, {}, y_nC, first, last);
}

/// y = A·x; gx = Aᵀ·gy.
struct Spmm : torch::autograd::Function<Spmm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_mC,
                            const GraphPlan& plan) {
    PlanContext::save(context, plan, nullptr);
    at::Tensor y_nC = at::empty({plan.owned, x_mC.size(1)}, x_mC.options());
    multiply(x_mC.contiguous(), plan, y_nC, 0, plan.owned);
    return y_nC;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const GraphPlan& plan = PlanContext::load(context)->plan;
    const at::Tensor g_nC = grads[0].contiguous();
    at::Tensor gx_mC = at::empty({plan.owned + plan.halo_slots, g_nC.size(1)}, g_nC.options());
    transpose_owned(g_nC, plan, gx_mC);
    transpose_halo(g_nC, plan, gx_mC);
    return {gx_mC, at::Tensor()};
  }
};

/// y = s⊙A·(s⊙x) with s = D^-1/2, rows of foreign nodes included; gx = s⊙Aᵀ·(s⊙gy). Rows without
/// halo columns are computed while halo rows travel.
struct PropagateSymmetric : torch::autograd::Function<PropagateSymmetric> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_nC, const GraphPlan& plan,
                            Communicator& world) {
    PlanContext::save(context, plan, &world);
    const at::Tensor& scale_n1 = plan.scale.to(x_nC.device(), x_nC.scalar_type());
    at::Tensor x_mC = at::empty({plan.owned + plan.halo_slots, x_nC.size(1)}, x_nC.options());
    at::Tensor owned_nC = x_mC.narrow(0, 0, plan.owned);
    at::mul_out(owned_nC, x_nC, scale_n1);
    auto halo = HaloTransfer::forward(x_mC, plan, world);
    at::Tensor y_nC = at::empty({plan.owned, x_nC.size(1)}, x_nC.options());
    multiply(x_mC, plan, y_nC, 0, plan.interior);
    halo.wait();
    multiply(x_mC, plan, y_nC, plan.interior, plan.owned);
    return y_nC.mul_(scale_n1);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = PlanContext::load(context);
    const GraphPlan& plan = saved->plan;
    const at::Tensor& scale_n1 = plan.scale.to(grads[0].device(), grads[0].scalar_type());
    const at::Tensor g_nC = (grads[0] * scale_n1).contiguous();
    at::Tensor gx_mC = at::empty({plan.owned + plan.halo_slots, g_nC.size(1)}, g_nC.options());
    transpose_halo(g_nC, plan, gx_mC);
    auto halo = HaloTransfer::adjoint(gx_mC, plan, *saved->world);
    transpose_owned(g_nC, plan, gx_mC);
    halo.wait();
    return {gx_mC.narrow(0, 0, plan.owned) * scale_n1, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor spmm(const at::Tensor& x_mC, const GraphPlan& plan) {
  TORCH_CHECK(x_mC.dim() == 2 && x_mC.size(0) == plan.owned + plan.halo_slots,
              "spmm: ", x_mC.sizes(), " is not (", plan.owned + plan.halo_slots, ", C)");
  return Spmm::apply(x_mC, plan);
}

at::Tensor propagate_symmetric(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world) {
  TORCH_CHECK(x_nC.dim() == 2 && x_nC.size(0) == plan.owned, "propagate_symmetric: ", x_nC.sizes(),
              " is not (", plan.owned, ", C)");
  return PropagateSymmetric::apply(x_nC, plan, world);
}

}  // namespace graphlora
