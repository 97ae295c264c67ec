#include "model/anchors.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/tensor_view.hpp"
#include "data/prompt.hpp"
#include "graph/scatter_rows.hpp"

namespace graphlora {

/// Which of its replica's anchors a rank fetches and projects: [first, first + count).
struct AnchorStage::Share {
  std::vector<std::int64_t> counts;  // of the ranks of the tensor group
  std::int64_t first = 0, count = 0;
  template <class T>
  std::span<const T> of(std::span<const T> all) const {
    return all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  }
};

/// What backward needs of the last forward.
struct AnchorStage::Step {
  explicit Step(GatherPlan rows) : gather(std::move(rows)) {}
  GatherPlan gather;
  at::Tensor known_A1;            // 0 at anchors treated as unknown
  at::Tensor g_Sr, z_Sr;          // leaf at the owner, and its normalization
  at::Tensor e_AD, projected_AH;  // leaf at the asking rank, and the projector's output
  Share share;
  AnchorRows rows;
  std::shared_ptr<const GraphPlan> plan;  // of all nodes
  Frontier frontier;                      // its layers, in frontier mode
  LayerPlans layers;
  at::Tensor place_S;  // rows of the GNN's result that were picked, on the CPU
  std::int64_t targets = 0;
};

AnchorStage::AnchorStage(ProcessGrid& grid, const NodeMap& map, const Shard& shard,
                         const EmbeddingTable& table, Gnn* gnn, Projector* projector,
                         const GnnConfig& config)
    : grid_(grid),
      map_(map),
      shard_(shard),
      table_(table),
      gnn_(gnn),
      projector_(projector),
      hops_(config.hops) {
  const bool frontier =
      config.mode == "frontier" || (config.mode == "auto" && config.type != "lightgcn");
  if (gnn_ != nullptr && frontier)
    frontiers_ = std::make_unique<FrontierBuilder>(shard_, grid_.world());
}

AnchorStage::~AnchorStage() = default;

at::Tensor AnchorStage::picked_rows(const GatherPlan& gather, const at::Tensor& z_Sr) const {
  if (projector_ == nullptr) return z_Sr;
  const at::Tensor e_SD = table_.weight_nD.index_select(0, gather.send_rows(device()));
  return z_Sr.defined() ? at::cat({e_SD, z_Sr}, 1) : e_SD;
}

AnchorStage::Share AnchorStage::share_of(std::size_t anchors) const {
  const auto all = static_cast<std::int64_t>(anchors);
  const std::int64_t ranks = grid_.tensor_parallel(), rank = grid_.tensor_rank();
  Share share;
  for (std::int64_t t = 0; t < ranks; ++t)
    share.counts.push_back(all * (t + 1) / ranks - all * t / ranks);
  share.first = all * rank / ranks;
  share.count = share.counts[rank];
  return share;
}

AnchorRows AnchorStage::complete(const AnchorRows& own, const Share& share) const {
  if (grid_.tensor_parallel() == 1) return own;
  const std::int64_t anchors =
      std::accumulate(share.counts.begin(), share.counts.end(), std::int64_t{0});
  AnchorRows all;
  Handle embedding, z;
  {
    const CommunicationGroup group(grid_.tensor());
    const auto gather = [&](const at::Tensor& rows, at::Tensor& whole) {
      if (!rows.defined()) return Handle();
      whole = at::empty({anchors, rows.size(1)}, rows.options().requires_grad(false));
      return grid_.tensor().all_gather_rows(rows.contiguous(), whole, share.counts,
                                            Traffic::anchors);
    };
    embedding = gather(own.embedding_MH, all.embedding_MH);
    z = gather(own.z_Mr, all.z_Mr);
  }
  embedding.wait();
  z.wait();
  return all;
}

AnchorRows AnchorStage::forward(const CutView& view, std::span<const std::int64_t> all_nodes,
                                std::span<const std::uint8_t> all_unknown) {
  if (gnn_ == nullptr && projector_ == nullptr) return {};
  const Share share = share_of(all_nodes.size());
  const auto nodes = share.of(all_nodes);
  const auto unknown = share.of(all_unknown);
  step_ = std::make_unique<Step>(GatherPlan(grid_.world(), map_, nodes));
  Step& step = *step_;
  step.share = share;
  at::Tensor known_A1 = at::empty({static_cast<std::int64_t>(nodes.size()), 1}, at::kDouble);
  std::transform(unknown.begin(), unknown.end(), known_A1.mutable_data_ptr<double>(),
                 std::logical_not<>());
  step.known_A1 = known_A1.to(table_.weight_nD.options());

  if (gnn_ != nullptr) {
    step.plan = shard_.plan(view);
    const at::Tensor& rows_S = step.gather.send_rows();
    at::Tensor e_nD = table_.weight_nD, degree_n = step.plan->degree_n.cpu();
    if (frontiers_ != nullptr) {
      step.frontier =
          frontiers_->build(*step.plan, values_of<std::int64_t>(rows_S), gnn_->layers(), hops_);
      for (const GraphPlan& layer : step.frontier.layers) step.layers.push_back(&layer);
      e_nD = e_nD.index_select(0, step.frontier.rows_f.to(device()));
      degree_n = step.frontier.degree_f;
      step.place_S = step.frontier.place_S;
    } else {
      step.layers.assign(static_cast<std::size_t>(gnn_->layers()), step.plan.get());
      step.place_S = rows_S;
    }
    const at::Tensor g_tr = gnn_->forward(step.layers, grid_.world(), e_nD, /*training=*/true);
    step.targets = g_tr.size(0);
    const at::AutoGradMode mode(true);
    step.g_Sr = g_tr.index_select(0, step.place_S.to(device())).set_requires_grad(true);
    step.z_Sr = normalize_rows(step.g_Sr, degree_n.index_select(0, step.place_S));
  }
  const at::Tensor picked =
      picked_rows(step.gather, step.z_Sr.defined() ? step.z_Sr.detach() : step.z_Sr);
  const at::Tensor received = step.gather.forward(picked, Traffic::anchors).mul_(step.known_A1);

  const std::int64_t width = projector_ != nullptr ? table_.weight_nD.size(1) : 0;
  if (projector_ != nullptr) {
    const at::AutoGradMode mode(true);
    step.e_AD = received.slice(1, 0, width).contiguous().set_requires_grad(true);
    step.projected_AH = projector_->forward(step.e_AD);
    step.rows.embedding_MH = step.projected_AH.detach();
  }
  if (gnn_ != nullptr) step.rows.z_Mr = received.slice(1, width, received.size(1)).contiguous();
  step.rows = complete(step.rows, share);
  for (at::Tensor* rows : {&step.rows.embedding_MH, &step.rows.z_Mr})
    if (rows->defined()) rows->set_requires_grad(true);
  return step.rows;
}

EmbeddingGradient AnchorStage::backward() {
  EmbeddingGradient gradient;
  if (step_ == nullptr) return gradient;
  Step& step = *step_;
  const auto gradient_of = [&](const at::Tensor& leaf) {
    return (leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf))
        .narrow(0, step.share.first, step.share.count);
  };

  std::vector<at::Tensor> parts;
  if (projector_ != nullptr) {
    torch::autograd::backward({step.projected_AH}, {gradient_of(step.rows.embedding_MH)});
    parts.push_back(step.e_AD.grad());
  }
  if (gnn_ != nullptr) parts.push_back(gradient_of(step.rows.z_Mr));
  const at::Tensor home =
      step.gather.adjoint(at::cat(parts, 1).mul_(step.known_A1), Traffic::anchors);

  // Rows of E that few anchors need, with repeats: the projector's, and a frontier's.
  std::vector<at::Tensor> sparse_rows, sparse_values;
  std::int64_t width = 0;
  if (projector_ != nullptr) {
    width = table_.weight_nD.size(1);
    sparse_rows.push_back(step.gather.send_rows());
    sparse_values.push_back(home.slice(1, 0, width));
  }
  if (gnn_ != nullptr) {
    torch::autograd::backward({step.z_Sr}, {home.slice(1, width, home.size(1))});
    at::Tensor grad_g_tr =
        at::zeros({step.targets, step.g_Sr.size(1)}, step.g_Sr.options().requires_grad(false));
    add_rows(grad_g_tr, step.place_S, step.g_Sr.grad());
    gnn_->backward(grad_g_tr, gradient);
    if (frontiers_ != nullptr) {
      sparse_rows.push_back(step.frontier.rows_f);
      sparse_values.push_back(gradient.low_rank_nr.defined()
                                  ? at::mm(gradient.low_rank_nr, gradient.factor_rD)
                                  : gradient.dense_nD);
      gradient = {};
    }
  }
  if (!sparse_rows.empty()) gradient.set_sparse(at::cat(sparse_rows), at::cat(sparse_values));
  step_.reset();
  return gradient;
}

std::int64_t AnchorStage::predicted_bytes(const CutView& view,
                                          std::span<const std::int64_t> nodes) {
  if (gnn_ == nullptr) return 0;
  const auto plan = shard_.plan(view);
  LayerPlans layers(static_cast<std::size_t>(gnn_->layers()), plan.get());
  Frontier frontier;
  if (frontiers_ != nullptr) {
    const GatherPlan gather(grid_.world(), map_, share_of(nodes.size()).of(nodes));
    frontier = frontiers_->build(*plan, values_of<std::int64_t>(gather.send_rows()), gnn_->layers(),
                                 hops_);
    layers.clear();
    for (const GraphPlan& layer : frontier.layers) layers.push_back(&layer);
  }
  return gnn_->held_numbers(layers) * static_cast<std::int64_t>(table_.weight_nD.element_size());
}

at::Tensor AnchorStage::node_z() {
  if (gnn_ == nullptr) return {};
  const at::NoGradGuard guard;
  const auto plan = shard_.plan(shard_.cut().full_view());
  const LayerPlans layers(static_cast<std::size_t>(gnn_->layers()), plan.get());
  return normalize_rows(gnn_->forward(layers, grid_.world(), table_.weight_nD, /*training=*/false),
                        plan->degree_n.to(device()));
}

void AnchorStage::begin_inference() { inference_z_nr_ = node_z(); }

AnchorRows AnchorStage::infer(std::span<const std::int64_t> all_nodes) {
  if (gnn_ == nullptr && projector_ == nullptr) return {};
  const at::NoGradGuard guard;
  const Share share = share_of(all_nodes.size());
  // Any node's row stands in for an unknown one, and is zeroed on arrival.
  const auto nodes = share.of(all_nodes);
  std::vector<std::int64_t> asked(nodes.begin(), nodes.end());
  std::vector<std::int64_t> unknown;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    if (asked[i] != kUnknownNode) continue;
    asked[i] = 0;
    unknown.push_back(static_cast<std::int64_t>(i));
  }
  const GatherPlan gather(grid_.world(), map_, asked);
  at::Tensor z_Sr;
  if (inference_z_nr_.defined()) z_Sr = inference_z_nr_.index_select(0, gather.send_rows(device()));
  at::Tensor received = gather.forward(picked_rows(gather, z_Sr), Traffic::anchors);
  if (!unknown.empty()) received.index_fill_(0, view_of(unknown).to(received.device()), 0);
  AnchorRows rows;
  std::int64_t width = 0;
  if (projector_ != nullptr) {
    width = table_.weight_nD.size(1);
    rows.embedding_MH = projector_->forward(received.slice(1, 0, width));
  }
  if (gnn_ != nullptr) rows.z_Mr = received.slice(1, width, received.size(1)).contiguous();
  return complete(rows, share);
}

}  // namespace graphlora
