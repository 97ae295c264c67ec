// LightGCN on shards against the wide form on the whole graph, forward and gradients.
// Shapes: N nodes, n owned, D = d_e, r rank.
#include "model/gnn.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/error.hpp"
#include "support/dense_graph.hpp"
#include "support/devices.hpp"
#include "support/tiny_world.hpp"

namespace graphlora::test {
namespace {

constexpr std::int64_t kWidth = 12, kRank = 4, kLayers = 3;

class LightGcn : public OnSetting {
 protected:
  /// Of the parameters.
  at::TensorOptions options() const { return at::dtype(at::kDouble).device(device()); }
};

TEST_P(LightGcn, EqualsTheWideFormOnTheWholeGraph) {
  const SharedDataset shared("user-time", 21, 15);
  PartitionConfig partition;
  partition.groups = 3;
  const Workspace workspace(job(), shared.path(), partition);
  const Dataset& dataset = *workspace.dataset;
  const at::Tensor& owned = workspace.shard->owned();
  const at::Tensor e_ND = random_tensor({dataset.nodes(), kWidth}, "e"),
                   loss_Nr = random_tensor({dataset.nodes(), kRank}, "loss");

  for (const CutView& view :
       {workspace.shard->cut().training_view(1), workspace.shard->cut().full_view()}) {
    const auto gnn =
        make_gnn({.type = "lightgcn", .layers = kLayers, .rank = kRank, .init = "random"}, kWidth,
                 options(), 1);
    // The oracle: d_e wide, dense, on one process.
    const at::Tensor s_NN = dense_symmetric(dataset, workspace.shard->cut(), view);
    const at::Tensor e = e_ND.clone().set_requires_grad(true);
    const at::Tensor w = gnn->parameters()[0].value.detach().cpu().clone().set_requires_grad(true);
    const at::Tensor b = gnn->parameters()[1].value.detach().cpu().clone().set_requires_grad(true);
    at::Tensor layer = e, sum = e;
    for (std::int64_t k = 0; k < kLayers; ++k) sum = sum + (layer = at::mm(s_NN, layer));
    const at::Tensor g_Nr = at::linear(sum / (kLayers + 1), w, b);
    torch::autograd::backward({(g_Nr * loss_Nr).sum()}, {});

    const auto plan = workspace.shard->plan(view);
    const LayerPlans plans(kLayers, plan.get());
    const at::Tensor own_g = gnn->forward(plans, world(), here(e_ND.index_select(0, owned)), true);
    EXPECT_LT(relative_difference(in_node_order(workspace, own_g), g_Nr.detach()), 1e-12);
    EmbeddingGradient gradient;
    gnn->backward(here(loss_Nr.index_select(0, owned)), gradient);
    at::Tensor rows = at::empty({owned.numel(), kWidth}, options());
    gradient.rows(0, owned.numel(), rows);
    EXPECT_LT(relative_difference(in_node_order(workspace, rows), e.grad()), 1e-12);
    for (const auto& [index, expected] : {std::pair(0, w.grad()), std::pair(1, b.grad())}) {
      at::Tensor total = gnn->parameters()[index].value.grad().clone();
      world().all_reduce(total, ReduceOp::sum, Traffic::control).wait();
      EXPECT_LT(relative_difference(total, expected), 1e-12) << gnn->parameters()[index].name;
    }
  }
}

TEST_P(LightGcn, PcaStartsFromTheLeadingDirections) {
  const SharedDataset shared("user-time", 21, 15);
  const Workspace workspace(job(), shared.path(), PartitionConfig{});
  const CutView view = workspace.shard->cut().full_view();
  const at::Tensor e_ND = random_tensor({workspace.dataset->nodes(), kWidth}, "e");
  const auto gnn = make_gnn({.type = "lightgcn", .layers = kLayers, .rank = kRank, .init = "pca"},
                            kWidth, options(), 1);
  gnn->initialize(*workspace.shard->plan(view), world(),
                  here(e_ND.index_select(0, workspace.shard->owned())));

  const at::Tensor s_NN = dense_symmetric(*workspace.dataset, workspace.shard->cut(), view);
  at::Tensor layer = e_ND, sum = e_ND;
  for (std::int64_t k = 0; k < kLayers; ++k) sum = sum + (layer = at::mm(s_NN, layer));
  const at::Tensor connected = s_NN.sum(1).nonzero().flatten();
  const at::Tensor x = (sum / (kLayers + 1)).index_select(0, connected);
  const at::Tensor centred = x - x.mean(0);
  // Variance that the neck keeps = the sum of the greatest squared singular values.
  const at::Tensor singular = std::get<1>(at::linalg_svd(centred, false));
  const double best = singular.slice(0, 0, kRank).square().sum().item<double>();
  const at::Tensor g = at::linear(x, gnn->parameters()[0].value.detach().cpu(),
                                  gnn->parameters()[1].value.detach().cpu());
  EXPECT_NEAR(g.square().sum().item<double>(), best, 1e-9 * best);
  EXPECT_LT(g.mean(0).abs().max().item<double>(), 1e-10);
}

INSTANTIATE_TEST_SUITE_P(Over, LightGcn, kEverySettingAndPath, name_of_setting);

TEST(Gnn, UnknownTypesAreRefusedByName) {
  EXPECT_EQ(make_gnn({.type = "none"}, 8, at::kDouble, 1), nullptr);
  try {
    make_gnn({.type = "transformer"}, 8, at::kDouble, 1);
    FAIL() << "transformer was accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("transformer"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("lightgcn"), std::string::npos);
  }
}

TEST(Gnn, ImpossibleShapesAreRefused) {
  EXPECT_THROW(resolved({.type = "gcn", .layers = 3}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "ngcf", .layers = 0}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "gat", .hidden = 9, .heads = 2}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "gcn", .heads = 2}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "lightgcn", .hidden = 8}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "lightgcn", .hops = 1}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "gat", .mode = "full", .hops = 1}, 8), ConfigError);
  EXPECT_THROW(resolved({.type = "gat", .hops = 3}, 8), ConfigError);
  EXPECT_EQ(resolved({.type = "gat", .hops = 1}, 8).hops, 1);
  EXPECT_EQ(resolved({.type = "ngcf"}, 8).layers, 3);
  EXPECT_EQ(resolved({.type = "graphsage"}, 8).layers, 2);
  EXPECT_EQ(resolved({.type = "gat"}, 8).hidden, 8);
}

TEST(NormalizeRows, LengthIsTheScaleAndGradientIsRight) {
  const at::Tensor g = random_tensor({5, kRank}, "g");
  const at::Tensor degree = at::tensor({1, 2, 0, 4, 1}, at::kInt);
  const at::Tensor length =
      at::linalg_vector_norm(normalize_rows(g, degree, 0.1), 2, at::IntArrayRef{1});
  EXPECT_TRUE(at::allclose(length, at::tensor({0.1, 0.1, 0.0, 0.1, 0.1}, at::kDouble)));
  const at::Tensor leaf = g.clone().set_requires_grad(true),
                   weight = random_tensor({5, kRank}, "w");
  torch::autograd::backward({(normalize_rows(leaf, degree, 0.1) * weight).sum()}, {});
  for (std::int64_t i = 0; i < 5; ++i) {
    for (std::int64_t c = 0; c < kRank; ++c) {
      const double step = 1e-6;
      at::Tensor up = g.clone(), down = g.clone();
      up[i][c] += step;
      down[i][c] -= step;
      const double numeric =
          ((normalize_rows(up, degree, 0.1) - normalize_rows(down, degree, 0.1)) * weight)
              .sum()
              .item<double>() /
          (2 * step);
      EXPECT_NEAR(leaf.grad()[i][c].item<double>(), numeric, 1e-8);
    }
  }
  // A zero row has no direction, and must not turn into NaN.
  EXPECT_EQ(normalize_rows(at::zeros({1, kRank}, at::kDouble), at::ones({1}, at::kInt))
                .abs()
                .sum()
                .item<double>(),
            0);
}

}  // namespace
}  // namespace graphlora::test
