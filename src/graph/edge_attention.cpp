#include "graph/edge_attention.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/device_loop.hpp"
#include "graph/attention_kernel.hpp"
#include "graph/plan_context.hpp"

namespace graphlora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
EdgeAttention<T> arguments(const at::Tensor& value_mKC, const at::Tensor& src_mK,
                           const at::Tensor& dst_tK) {
  EdgeAttention<T> attention;
  attention.value = value_mKC.const_data_ptr<T>();
  attention.score_src = src_mK.const_data_ptr<T>();
  attention.score_dst = dst_tK.const_data_ptr<T>();
  attention.heads = value_mKC.size(1);
  attention.width = value_mKC.size(2);
  return attention;
}

// body(row, each) for every row of the lists, in parallel; each(visit) passes on the columns below
// `limit`.
template <class Body>
void for_rows(const RowLists& lists, std::int64_t limit, const Body& body) {
  const auto& blocks = lists.blocks;
  at::parallel_for(0, static_cast<std::int64_t>(blocks.size()) - 1, 1,
                   [&](std::int64_t from, std::int64_t to) {
                     for (std::int64_t row = blocks[from]; row < blocks[to]; ++row) {
                       body(row, [&](const auto& visit) {
                         lists.each(row, [&](std::int64_t column) {
                           if (column < limit) visit(column);
                         });
                       });
                     }
                   });
}

RowRuns runs_of(const RowLists& lists, std::int64_t limit, at::Device device) {
  RowRuns runs;
  runs.pointers = lists.pointers.to(device).const_data_ptr<std::int64_t>();
  runs.stride = lists.stride;
  runs.drop_begin = lists.drop.drop_begin;
  runs.drop_end = lists.drop.drop_end;
  runs.groups = lists.groups;
  runs.index = lists.index.to(device).const_data_ptr<std::int32_t>();
  runs.limit = limit;
  return runs;
}

template <class T>
void attend_on_device(at::Device device, const GraphPlan& plan, const EdgeAttention<T>& attention,
                      T* out, T* lse) {
  const RowRuns in_edges = runs_of(plan.in_edges, plan.sources(), device);
  device_row_sums(device, "attend_lse", plan.targets * attention.heads,
                  AttendLse<T>{attention, in_edges, lse});
  device_row_sums(device, "attend_out", plan.targets * column_blocks(attention),
                  AttendOut<T>{attention, in_edges, lse, out});
}

template <class T>
void attend_backward_on_device(at::Device device, const GraphPlan& plan,
                               const EdgeAttention<T>& attention,
                               const EdgeAttentionGradient<T>& gradient, T* to_value, T* to_src,
                               T* to_dst) {
  device_row_sums(device, "attend_target_gradient", plan.targets * attention.heads,
                  AttendTargetGradient<T>{attention, gradient,
                                          runs_of(plan.in_edges, plan.sources(), device), to_dst});
  const auto sources = [&](const RowLists& lists, std::int64_t first) {
    const RowRuns uses = runs_of(lists, plan.targets, device);
    device_row_sums(device, "attend_value_gradient", lists.rows * column_blocks(attention),
                    AttendValueGradient<T>{attention, gradient, uses, first, to_value});
    device_row_sums(device, "attend_source_gradient", lists.rows * attention.heads,
                    AttendSourceGradient<T>{attention, gradient, uses, first, to_src});
  };
  sources(plan.out_edges, 0);
  sources(plan.halo_uses, plan.owned);
}

struct Attend : torch::autograd::Function<Attend> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& value,
                            const at::Tensor& src, const at::Tensor& dst, const GraphPlan& plan) {
    PlanContext::save(context, plan, nullptr);
    const at::Tensor value_mKC = value.contiguous(), src_mK = src.contiguous(),
                     dst_tK = dst.contiguous();
    at::Tensor out_tKC = at::empty({plan.targets, value.size(1), value.size(2)}, value.options());
    at::Tensor lse_tK = at::empty_like(dst_tK);
    AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "edge_attention", [&] {
      const auto attention = arguments<scalar_t>(value_mKC, src_mK, dst_tK);
      auto* out = out_tKC.mutable_data_ptr<scalar_t>();
      auto* lse = lse_tK.mutable_data_ptr<scalar_t>();
      if (takes_device_path(value_mKC, Shortcut::graph_sums))
        return attend_on_device(value_mKC.device(), plan, attention, out, lse);
      for_rows(plan.in_edges, plan.sources(),
               [&](std::int64_t row, const auto& each) { attend(attention, row, each, out, lse); });
    });
    context->save_for_backward({value_mKC, src_mK, dst_tK, out_tKC, lse_tK});
    return out_tKC;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const GraphPlan& plan = PlanContext::load(context)->plan;
    const auto saved = context->get_saved_variables();
    const at::Tensor &value_mKC = saved[0], &src_mK = saved[1], &dst_tK = saved[2];
    const at::Tensor grad_tKC = grads[0].contiguous();
    const at::Tensor dot_tK = (grad_tKC * saved[3]).sum(2);
    at::Tensor grad_value = at::empty_like(value_mKC), grad_src = at::empty_like(src_mK),
               grad_dst = at::empty_like(dst_tK);
    AT_DISPATCH_FLOATING_TYPES(value_mKC.scalar_type(), "edge_attention_backward", [&] {
      const auto attention = arguments<scalar_t>(value_mKC, src_mK, dst_tK);
      const EdgeAttentionGradient<scalar_t> gradient{grad_tKC.const_data_ptr<scalar_t>(),
                                                     saved[4].const_data_ptr<scalar_t>(),
                                                     dot_tK.const_data_ptr<scalar_t>()};
      auto* to_value = grad_value.mutable_data_ptr<scalar_t>();
      auto* to_src = grad_src.mutable_data_ptr<scalar_t>();
      auto* to_dst = grad_dst.mutable_data_ptr<scalar_t>();
      if (takes_device_path(value_mKC, Shortcut::graph_sums)) {
        return attend_backward_on_device(value_mKC.device(), plan, attention, gradient, to_value,
                                         to_src, to_dst);
      }
      for_rows(plan.in_edges, plan.sources(), [&](std::int64_t row, const auto& each) {
        attend_target_backward(attention, gradient, row, each, to_dst);
      });
      for_rows(plan.out_edges, plan.targets, [&](std::int64_t row, const auto& each) {
        attend_source_backward(attention, gradient, row, each, to_value, to_src);
      });
      for_rows(plan.halo_uses, plan.targets, [&](std::int64_t slot, const auto& each) {
        attend_source_backward(attention, gradient, plan.owned + slot, each, to_value, to_src);
      });
    });
    return {grad_value, grad_src, grad_dst, at::Tensor()};
  }
};

}  // namespace

at::Tensor edge_attention(const at::Tensor& value_mKC, const at::Tensor& src_mK,
                          const at::Tensor& dst_tK, const GraphPlan& plan) {
  TORCH_CHECK(value_mKC.dim() == 3 && value_mKC.size(0) == plan.sources() && plan.hubs == 0 &&
                  src_mK.size(0) == plan.sources() && dst_tK.size(0) == plan.targets &&
                  src_mK.size(1) == value_mKC.size(1) && dst_tK.size(1) == value_mKC.size(1) &&
                  value_mKC.device() == src_mK.device() && value_mKC.device() == dst_tK.device() &&
                  value_mKC.scalar_type() == src_mK.scalar_type() &&
                  value_mKC.scalar_type() == dst_tK.scalar_type(),
              "edge_attention: shapes, types or devices do not fit, or the plan has hubs");
  return Attend::apply(value_mKC, src_mK, dst_tK, plan);
}

}  // namespace graphlora
