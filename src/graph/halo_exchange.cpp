#include "graph/halo_exchange.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include "graph/plan_context.hpp"
#include "graph/row_sum.hpp"

namespace graphlora {

HaloTransfer HaloTransfer::forward(at::Tensor x_mC, const GraphPlan& plan, Communicator& world) {
  HaloTransfer transfer(plan, x_mC, /*adjoint=*/false);
  const at::Tensor halo_hC = x_mC.narrow(0, plan.owned + plan.hubs, plan.halo_slots);
  const at::Tensor sent_SC =
      x_mC.narrow(0, 0, plan.owned).index_select(0, plan.send_rows.to(x_mC.device()));
  if (plan.whole_halo()) {
    transfer.received_ = halo_hC;  // rows arrive in the order of the slots
  } else {
    halo_hC.zero_();
    transfer.received_ = at::empty({plan.halo, x_mC.size(1)}, x_mC.options());
  }
  transfer.handle_ = world.all_to_all_rows(sent_SC, plan.send_counts, transfer.received_,
                                           plan.receive_counts, Traffic::halo);
  return transfer;
}

HaloTransfer HaloTransfer::adjoint(at::Tensor g_mC, const GraphPlan& plan, Communicator& world) {
  HaloTransfer transfer(plan, g_mC, /*adjoint=*/true);
  const at::Tensor halo_hC = g_mC.narrow(0, plan.owned + plan.hubs, plan.halo_slots);
  const at::Tensor sent_RC =
      plan.whole_halo() ? halo_hC : halo_hC.index_select(0, plan.receive_rows.to(g_mC.device()));
  transfer.received_ = at::empty({plan.send_rows.cpu().size(0), g_mC.size(1)}, g_mC.options());
  transfer.handle_ = world.all_to_all_rows(sent_RC, plan.receive_counts, transfer.received_,
                                           plan.send_counts, Traffic::halo);
  return transfer;
}

void HaloTransfer::wait() {
  handle_.wait();
  if (adjoint_) {
    const std::int64_t rows = plan_.homecoming.rows;
    const at::Tensor home_bC = rows_mC_.narrow(0, plan_.home_begin, rows);
    row_sum(plan_.homecoming, received_, received_.size(0), home_bC, home_bC, 0, rows);
  } else if (!plan_.whole_halo()) {
    rows_mC_.narrow(0, plan_.owned + plan_.hubs, plan_.halo_slots)
        .index_copy_(0, plan_.receive_rows.to(rows_mC_.device()), received_);
  }
}

HubTransfer HubTransfer::gather(const at::Tensor& own_kC, at::Tensor hubs_kC, const GraphPlan& plan,
                                Communicator& world) {
  if (plan.hubs == 0) return {};
  return HubTransfer(
      world.all_gather_rows(own_kC.contiguous(), hubs_kC, plan.hub_counts, Traffic::hubs));
}

HubTransfer HubTransfer::reduce(const at::Tensor& partial_kC, at::Tensor own_kC,
                                const GraphPlan& plan, Communicator& world) {
  if (plan.hubs == 0) return {};
  return HubTransfer(world.reduce_scatter_rows(partial_kC, own_kC, plan.hub_counts, Traffic::hubs));
}

namespace {

/// y = (x, rows of x from their owners); dx = dy of owned rows + dy of the halo rows sent home.
struct HaloExchange : torch::autograd::Function<HaloExchange> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x_nC,
                            const GraphPlan& plan, Communicator& world) {
    PlanContext::save(context, plan, &world);
    at::Tensor y_mC = at::empty({plan.sources(), x_nC.size(1)}, x_nC.options());
    y_mC.narrow(0, 0, plan.owned).copy_(x_nC);
    HaloTransfer::forward(y_mC, plan, world).wait();
    return y_mC;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = PlanContext::load(context);
    const at::Tensor g_mC = grads[0].clone(at::MemoryFormat::Contiguous);
    HaloTransfer::adjoint(g_mC, saved->plan, *saved->world).wait();
    return {g_mC.narrow(0, 0, saved->plan.owned), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor halo_exchange(const at::Tensor& x_nC, const GraphPlan& plan, Communicator& world) {
  TORCH_CHECK(x_nC.dim() == 2 && x_nC.size(0) == plan.owned && plan.hubs == 0,
              "halo_exchange: ", x_nC.sizes(), " is not (", plan.owned, ", C), or there are hubs");
  return HaloExchange::apply(x_nC, plan, world);
}

}  // namespace graphlora
