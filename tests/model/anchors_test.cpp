// The graph side of a step against dense autograd on one process: what the LLM receives, and the
// gradient of every parameter and of E, under random weights.
// Shapes: N nodes, n owned, A anchors of a rank, D = d_e, r rank, H hidden.
#include "model/anchors.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/dense_gnn.hpp"
#include "support/dense_graph.hpp"
#include "support/devices.hpp"
#include "support/tiny_world.hpp"

namespace graphlora::test {
namespace {

constexpr std::int64_t kWidth = 9, kRank = 4, kLayers = 2, kMiddle = 7, kHidden = 6;

/// What a rank asks for: nodes with repeats, some of them treated as unknown; the last of several
/// ranks asks for nothing. With the loss' weights on what it receives.
struct Anchors {
  std::vector<std::int64_t> nodes;
  std::vector<std::uint8_t> unknown;
  at::Tensor weight_AH, weight_Ar;

  Anchors(int rank, int ranks, std::int64_t all_nodes) {
    SplitMix64 random(hash_name(17, std::to_string(rank)));
    const std::int64_t count = ranks > 1 && rank == ranks - 1 ? 0 : 8 + 3 * rank;
    for (std::int64_t i = 0; i < count; ++i) {
      // Node 0 has no edge, and everyone asks for it.
      nodes.push_back(i == 0 ? 0 : static_cast<std::int64_t>(random.below(all_nodes)));
      unknown.push_back(i > 0 && random.uniform() < 0.25);
    }
    weight_AH = random_tensor({count, kHidden}, "H" + std::to_string(rank));
    weight_Ar = random_tensor({count, kRank}, "r" + std::to_string(rank));
  }
};

at::Tensor leaf_of(const at::Tensor& value) {
  return value.detach().clone().set_requires_grad(true);
}

struct Case {
  const char* name;
  const char* split;
  const char* cut;
  std::string gnn;
  bool projector;
  std::string mode = "full";
};

class AnchorStageTest : public OnSettingWith<Case> {};

TEST_P(AnchorStageTest, ForwardAndEveryGradientEqualTheDenseForm) {
  const Case& c = parameter<0>();
  const SharedDataset shared(c.split, 21, 15);
  PartitionConfig partition;
  partition.cut = c.cut;
  partition.groups = 3;
  const Workspace workspace(job(), shared.path(), partition);
  const Dataset& dataset = *workspace.dataset;
  const CutView view = workspace.shard->cut().training_view(1);
  EmbeddingTable table = tiny_embeddings(workspace, kWidth, at::kDouble);
  table.weight_nD = here(table.weight_nD);
  const auto options = at::dtype(at::kDouble).device(device());
  const GnnConfig config{
      .type = c.gnn, .layers = kLayers, .rank = kRank, .init = "random", .mode = c.mode};
  const auto gnn = make_gnn(config, kWidth, options, 1);
  std::unique_ptr<Projector> projector;
  if (c.projector) projector = std::make_unique<Projector>(kWidth, kMiddle, kHidden, options, 1);
  std::vector<Parameter> parameters;
  if (projector) parameters = projector->parameters();
  if (gnn) parameters.insert(parameters.end(), gnn->parameters().begin(), gnn->parameters().end());

  // The oracle, the same on every rank: all ranks' anchors, all nodes.
  const at::Tensor e_ND = leaf_of(in_node_order(workspace, table.weight_nD));
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : parameters) leaves.push_back(leaf_of(p.value.cpu()));
  at::Tensor z_Nr;
  if (gnn) {
    const at::Tensor a_NN = dense_adjacency(dataset, workspace.shard->cut(), view);
    Weights weights;
    const std::size_t first = projector ? 4 : 0;
    for (std::size_t i = 0; i < gnn->parameters().size(); ++i)
      weights[gnn->parameters()[i].name] = leaves[first + i];
    EXPECT_EQ(a_NN.sum(1)[0].item<double>(), 0) << "the test needs a node without edges";
    z_Nr = dense_z(dense_gnn(resolved(config, kWidth), a_NN, e_ND, weights), a_NN);
  }
  at::Tensor loss = at::zeros({}, at::kDouble), own_AH, own_Ar;
  for (int rank = 0; rank < world().size(); ++rank) {
    const Anchors anchors(rank, world().size(), dataset.nodes());
    const at::Tensor nodes_A = at::tensor(anchors.nodes, at::kLong);
    at::Tensor known_A1 = at::ones({nodes_A.numel(), 1}, at::kDouble);
    for (std::size_t i = 0; i < anchors.nodes.size(); ++i)
      if (anchors.unknown[i] != 0) known_A1[static_cast<std::int64_t>(i)] = 0;
    at::Tensor rows_AH, rows_Ar;
    if (projector) {
      const at::Tensor e_AD = e_ND.index_select(0, nodes_A) * known_A1;
      rows_AH = at::linear(at::linear(e_AD, leaves[0], leaves[1]).relu(), leaves[2], leaves[3]);
      loss = loss + (rows_AH * anchors.weight_AH).sum();
    }
    if (gnn) {
      rows_Ar = z_Nr.index_select(0, nodes_A) * known_A1;
      loss = loss + (rows_Ar * anchors.weight_Ar).sum();
    }
    if (rank == world().rank()) own_AH = rows_AH, own_Ar = rows_Ar;
  }
  torch::autograd::backward({loss}, {});

  AnchorStage stage(*workspace.grid, *workspace.map, *workspace.shard, table, gnn.get(),
                    projector.get(), config);
  EXPECT_EQ(stage.frontier(), gnn != nullptr && c.mode == "frontier");
  const Anchors anchors(world().rank(), world().size(), dataset.nodes());
  const AnchorRows rows = stage.forward(view, anchors.nodes, anchors.unknown);
  EXPECT_EQ(rows.embedding_MH.defined(), c.projector);
  EXPECT_EQ(rows.z_Mr.defined(), gnn != nullptr);
  if (projector) {
    EXPECT_LT(relative_difference(rows.embedding_MH.detach(), own_AH.detach()), 1e-12);
    at::Tensor(rows.embedding_MH).mutable_grad() = here(anchors.weight_AH).clone();
  }
  if (gnn) {
    EXPECT_LT(relative_difference(rows.z_Mr.detach(), own_Ar.detach()), 1e-12);
    at::Tensor(rows.z_Mr).mutable_grad() = here(anchors.weight_Ar).clone();
  }
  const EmbeddingGradient gradient = stage.backward();
  at::Tensor own_nD = at::empty_like(table.weight_nD);
  gradient.rows(0, own_nD.size(0), own_nD);
  EXPECT_LT(relative_difference(in_node_order(workspace, own_nD), e_ND.grad()), 1e-12);
  at::Tensor squared = at::full({1}, gradient.squared_norm(), at::kDouble);
  world().all_reduce(squared, ReduceOp::sum, Traffic::control).wait();
  const double expected = e_ND.grad().square().sum().item<double>();
  EXPECT_NEAR(squared.item<double>(), expected, 1e-12 * expected);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& own = parameters[i].value.grad();
    at::Tensor total = own.defined() ? own.clone() : at::zeros_like(parameters[i].value).detach();
    world().all_reduce(total, ReduceOp::sum, Traffic::control).wait();
    EXPECT_LT(relative_difference(total, leaves[i].grad()), 1e-12) << parameters[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Parts, AnchorStageTest,
    ::testing::Combine(
        kEverySettingAndPath,
        ::testing::Values(Case{"fold", "user-time", "fold", "lightgcn", true},
                          Case{"window", "time", "window", "lightgcn", true},
                          Case{"uncut", "time", "none", "lightgcn", true},
                          Case{"without_projector", "user-time", "fold", "lightgcn", false},
                          Case{"without_gnn", "user-time", "fold", "none", true},
                          Case{"frontier", "user-time", "fold", "lightgcn", true, "frontier"},
                          Case{"gcn", "user-time", "fold", "gcn", true},
                          Case{"gcn_frontier", "time", "window", "gcn", true, "frontier"},
                          Case{"ngcf_frontier", "user-time", "fold", "ngcf", true, "frontier"},
                          Case{"graphsage_frontier", "time", "none", "graphsage", true, "frontier"},
                          Case{"gat", "user-time", "fold", "gat", true},
                          Case{"gat_frontier", "user-time", "fold", "gat", true, "frontier"})),
    [](const auto& info) {
      return setting_name(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
    });

}  // namespace
}  // namespace graphlora::test
