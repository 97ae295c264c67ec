#include "model/anchors.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>

namespace graphlora {

/// What backward needs of the last forward.
struct AnchorStage::Step {
  GatherPlan gather;
  at::Tensor known_A1;            // 0 at anchors treated as unknown
  at::Tensor g_Sr, z_Sr;          // leaf at the owner, and its normalization
  at::Tensor e_AD, projected_AH;  // leaf at the asking rank, and the projector's output
  AnchorRows rows;
  std::int64_t owned;
};

AnchorStage::AnchorStage(ProcessGrid& grid, const NodeMap& map, const Shard& shard,
                         const EmbeddingTable& table, Gnn* gnn, Projector* projector)
    : grid_(grid), map_(map), shard_(shard), table_(table), gnn_(gnn), projector_(projector) {}

AnchorStage::~AnchorStage() = default;

at::Tensor AnchorStage::picked_rows(const GatherPlan& gather, const at::Tensor& z_Sr) const {
  if (projector_ == nullptr) return z_Sr;
  const at::Tensor e_SD = table_.weight_nD.index_select(0, gather.send_rows());
  return z_Sr.defined() ? at::cat({e_SD, z_Sr}, 1) : e_SD;
}

AnchorRows AnchorStage::forward(const CutView& view, std::span<const std::int64_t> nodes,
                                std::span<const std::uint8_t> unknown) {
  if (gnn_ == nullptr && projector_ == nullptr) return {};
  step_.reset(new Step{
      GatherPlan(grid_.world(), map_, nodes), {}, {}, {}, {}, {}, {}, table_.weight_nD.size(0)});
  Step& step = *step_;
  at::Tensor known_A1 = at::empty({static_cast<std::int64_t>(nodes.size()), 1}, at::kDouble);
  std::transform(unknown.begin(), unknown.end(), known_A1.mutable_data_ptr<double>(),
                 std::logical_not<>());
  step.known_A1 = known_A1.to(table_.weight_nD.scalar_type());

  if (gnn_ != nullptr) {
    const auto plan = shard_.plan(view);
    const at::Tensor g_nr =
        gnn_->forward(*plan, grid_.world(), table_.weight_nD, /*training=*/true);
    const at::AutoGradMode mode(true);
    step.g_Sr = g_nr.index_select(0, step.gather.send_rows()).set_requires_grad(true);
    step.z_Sr = normalize_rows(step.g_Sr, plan->degree_n.index_select(0, step.gather.send_rows()));
  }
  const at::Tensor picked =
      picked_rows(step.gather, step.z_Sr.defined() ? step.z_Sr.detach() : step.z_Sr);
  const at::Tensor received = step.gather.forward(picked, Traffic::anchors).mul_(step.known_A1);

  const std::int64_t width = projector_ != nullptr ? table_.weight_nD.size(1) : 0;
  if (projector_ != nullptr) {
    const at::AutoGradMode mode(true);
    step.e_AD = received.slice(1, 0, width).contiguous().set_requires_grad(true);
    step.projected_AH = projector_->forward(step.e_AD);
    step.rows.embedding_MH = step.projected_AH.detach().set_requires_grad(true);
  }
  if (gnn_ != nullptr) {
    step.rows.z_Mr =
        received.slice(1, width, received.size(1)).contiguous().set_requires_grad(true);
  }
  return step.rows;
}

EmbeddingGradient AnchorStage::backward() {
  EmbeddingGradient gradient;
  if (step_ == nullptr) return gradient;
  Step& step = *step_;
  const auto gradient_of = [](const at::Tensor& leaf) {
    return leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
  };

  std::vector<at::Tensor> parts;
  if (projector_ != nullptr) {
    torch::autograd::backward({step.projected_AH}, {gradient_of(step.rows.embedding_MH)});
    parts.push_back(step.e_AD.grad());
  }
  if (gnn_ != nullptr) parts.push_back(gradient_of(step.rows.z_Mr));
  const at::Tensor home =
      step.gather.adjoint(at::cat(parts, 1).mul_(step.known_A1), Traffic::anchors);

  std::int64_t width = 0;
  if (projector_ != nullptr) {
    width = table_.weight_nD.size(1);
    gradient.set_sparse(step.gather.send_rows(), home.slice(1, 0, width));
  }
  if (gnn_ != nullptr) {
    torch::autograd::backward({step.z_Sr}, {home.slice(1, width, home.size(1))});
    at::Tensor grad_g_nr =
        at::zeros({step.owned, step.g_Sr.size(1)}, step.g_Sr.options().requires_grad(false));
    grad_g_nr.index_add_(0, step.gather.send_rows(), step.g_Sr.grad());
    gnn_->backward(grad_g_nr, gradient);
  }
  step_.reset();
  return gradient;
}

at::Tensor AnchorStage::node_z() {
  if (gnn_ == nullptr) return {};
  const at::NoGradGuard guard;
  const auto plan = shard_.plan(shard_.cut().full_view());
  return normalize_rows(gnn_->forward(*plan, grid_.world(), table_.weight_nD, /*training=*/false),
                        plan->degree_n);
}

void AnchorStage::begin_inference() { inference_z_nr_ = node_z(); }

AnchorRows AnchorStage::infer(std::span<const std::int64_t> nodes) {
  if (gnn_ == nullptr && projector_ == nullptr) return {};
  const at::NoGradGuard guard;
  const GatherPlan gather(grid_.world(), map_, nodes);
  at::Tensor z_Sr;
  if (inference_z_nr_.defined()) z_Sr = inference_z_nr_.index_select(0, gather.send_rows());
  const at::Tensor received = gather.forward(picked_rows(gather, z_Sr), Traffic::anchors);
  AnchorRows rows;
  std::int64_t width = 0;
  if (projector_ != nullptr) {
    width = table_.weight_nD.size(1);
    rows.embedding_MH = projector_->forward(received.slice(1, 0, width));
  }
  if (gnn_ != nullptr) rows.z_Mr = received.slice(1, width, received.size(1)).contiguous();
  return rows;
}

}  // namespace graphlora
