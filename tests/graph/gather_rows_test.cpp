#include "graph/gather_rows.hpp"

#include <gtest/gtest.h>

#include "graph/on_division.hpp"

namespace graphlora {
namespace {

using namespace test;

class GatherRowsEveryDivision : public OnDivision {};

// Uneven requests with repeats; some ranks ask for nothing.
std::vector<std::int64_t> requests(const DistributedGraph& graph, int round) {
  std::mt19937 random(static_cast<unsigned>(17 * round + world().rank()));
  std::vector<std::int64_t> nodes((world().rank() + round) % 3 == 0 ? 0 : 5 + 9 * world().rank());
  for (auto& node : nodes) node = random() % static_cast<unsigned>(graph.graph().nodes);
  if (nodes.size() > 2) nodes[2] = nodes[0];
  return nodes;
}

TEST_P(GatherRowsEveryDivision, BringsTheRowsAskedForInOrder) {
  for (int round = 0; round < 4; ++round) {
    const auto nodes = requests(graph(), round);
    const GatherPlan plan(world(), graph().map(), nodes);
    for (const auto dtype : {at::kDouble, at::kFloat, at::kLong}) {
      const at::Tensor x_NC = random_tensor({graph().graph().nodes, 6}, 3).mul(1000).to(dtype);
      const at::Tensor own_nC = here(graph().own_rows(x_NC));
      const at::Tensor picked_SC = own_nC.index_select(0, plan.send_rows(device()));
      const at::Tensor rows_AC = plan.forward(picked_SC, Traffic::anchors);
      EXPECT_EQ(rows_AC.device(), device());
      EXPECT_TRUE(at::equal(rows_AC.cpu(), x_NC.index_select(0, at::tensor(nodes, at::kLong))));
    }
  }
}

TEST_P(GatherRowsEveryDivision, AdjointTakesGradientsHome) {
  for (int round = 0; round < 4; ++round) {
    const auto nodes = requests(graph(), round);
    const GatherPlan plan(world(), graph().map(), nodes);
    const at::Tensor grad_AC =
        random_tensor({static_cast<std::int64_t>(nodes.size()), 6}, 30 + world().rank());
    const at::Tensor home_SC = plan.adjoint(here(grad_AC), Traffic::anchors).cpu();
    at::Tensor own_nC = at::zeros({graph().shard().owned_count(), 6}, at::kDouble);
    own_nC.index_add_(0, plan.send_rows(), home_SC);

    at::Tensor total_NC = at::zeros({graph().graph().nodes, 6}, at::kDouble);
    total_NC.index_add_(0, at::tensor(nodes, at::kLong), grad_AC);
    world().all_reduce(total_NC, ReduceOp::sum, Traffic::control).wait();
    EXPECT_LT(largest_difference(own_nC, graph().own_rows(total_NC)), 1e-12);
  }
}

TEST_P(GatherRowsEveryDivision, NothingAskedForAnywhere) {
  const GatherPlan plan(world(), graph().map(), {});
  EXPECT_EQ(plan.send_rows().size(0), 0);
  const at::Tensor none = here(at::empty({0, 4}));
  EXPECT_EQ(plan.forward(none, Traffic::anchors).sizes(), (at::IntArrayRef{0, 4}));
  EXPECT_EQ(plan.adjoint(none, Traffic::anchors).sizes(), (at::IntArrayRef{0, 4}));
}

INSTANTIATE_TEST_SUITE_P(Graph, GatherRowsEveryDivision,
                         ::testing::Combine(kEverySetting, ::testing::ValuesIn(kDivisions),
                                            ::testing::Values(CutKind::fold)),
                         name_of_division);

}  // namespace
}  // namespace graphlora
