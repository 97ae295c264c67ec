#include "graph/spmm.hpp"

#include <gtest/gtest.h>

#include "graph/halo_exchange.hpp"
#include "graph/planted.hpp"

namespace graphlora {
namespace {

using namespace test;

// Dense D^-1/2·A·D^-1/2 of the whole graph.
at::Tensor dense_symmetric(const at::Tensor& a_NN) {
  const at::Tensor degree = a_NN.sum(1, /*keepdim=*/true);
  const at::Tensor scale = at::where(degree > 0, degree.rsqrt(), at::zeros_like(degree));
  return scale * a_NN * scale.t();
}

// Owned rows of all nodes' values, then the halo rows that the shard lists.
at::Tensor local_rows(const DistributedGraph& graph, const at::Tensor& all_NC) {
  return at::cat({graph.own_rows(all_NC), all_NC.index_select(0, graph.shard().halo())});
}

class SpmmEveryDivision : public ::testing::TestWithParam<std::tuple<std::string, CutKind>> {
 protected:
  SpmmEveryDivision() : graph(std::get<0>(GetParam()), std::get<1>(GetParam())) {}
  DistributedGraph graph;
};

TEST_P(SpmmEveryDivision, EqualsDenseProductAtAnyWidth) {
  for (const CutView& view : graph.views()) {
    const auto plan = graph.shard().plan(view);
    const at::Tensor a_NN = graph.dense(view);
    for (const std::int64_t width : {1, 3, 8, 9, 40, 77, 256}) {
      const at::Tensor x_NC = random_tensor({graph.graph().nodes, width}, 7);
      const at::Tensor y_nC = spmm(local_rows(graph, x_NC), *plan);
      EXPECT_LT(largest_difference(y_nC, graph.own_rows(a_NN.matmul(x_NC))), 1e-12);
      const at::Tensor y32_nC = spmm(local_rows(graph, x_NC).to(at::kFloat), *plan);
      EXPECT_EQ(y32_nC.scalar_type(), at::kFloat);
      EXPECT_LT(largest_difference(y32_nC, y_nC), 1e-4);
    }
  }
}

TEST_P(SpmmEveryDivision, AdjointEqualsDenseTranspose) {
  for (const CutView& view : graph.views()) {
    const auto plan = graph.shard().plan(view);
    for (const std::int64_t width : {1, 8, 35}) {
      const at::Tensor x_NC = random_tensor({graph.graph().nodes, width}, 8);
      const at::Tensor w_nC = graph.own_rows(random_tensor({graph.graph().nodes, width}, 9));
      const at::Tensor x_mC = local_rows(graph, x_NC).requires_grad_();
      (spmm(x_mC, *plan) * w_nC).sum().backward();
      // Local part of the matrix: owned rows, columns of owned and halo nodes.
      const at::Tensor columns = at::cat({graph.shard().owned(), graph.shard().halo()});
      const at::Tensor a_nm = graph.own_rows(graph.dense(view)).index_select(1, columns);
      EXPECT_LT(largest_difference(x_mC.grad(), a_nm.t().matmul(w_nC)), 1e-12);
    }
  }
}

TEST_P(SpmmEveryDivision, PropagationAndGradientEqualOneProcess) {
  for (const CutView& view : graph.views()) {
    const auto plan = graph.shard().plan(view);
    const at::Tensor s_NN = dense_symmetric(graph.dense(view));
    const at::Tensor x_NC = random_tensor({graph.graph().nodes, 8}, 10);
    const at::Tensor w_NC = random_tensor({graph.graph().nodes, 8}, 11);
    const at::Tensor x_nC = graph.own_rows(x_NC).requires_grad_();
    // Two layers, so that gradients cross parts twice.
    const at::Tensor y_nC =
        propagate_symmetric(propagate_symmetric(x_nC, *plan, world()), *plan, world());
    (y_nC * graph.own_rows(w_NC)).sum().backward();
    EXPECT_LT(largest_difference(y_nC, graph.own_rows(s_NN.matmul(s_NN.matmul(x_NC)))), 1e-12);
    EXPECT_LT(
        largest_difference(x_nC.grad(), graph.own_rows(s_NN.t().matmul(s_NN.t().matmul(w_NC)))),
        1e-12);
  }
}

TEST_P(SpmmEveryDivision, PropagationEqualsExchangeThenProduct) {
  for (const CutView& view : graph.views()) {
    const auto plan = graph.shard().plan(view);
    const at::Tensor scale_n1 = plan->inverse_sqrt_degree_n.unsqueeze(1);
    const at::Tensor w_nC = graph.own_rows(random_tensor({graph.graph().nodes, 5}, 11));
    const at::Tensor x_nC =
        graph.own_rows(random_tensor({graph.graph().nodes, 5}, 12)).requires_grad_();
    const at::Tensor once = spmm(halo_exchange(x_nC * scale_n1, *plan, world()), *plan) * scale_n1;
    (once * w_nC).sum().backward();
    const at::Tensor grad_nC = x_nC.grad().clone();
    x_nC.mutable_grad() = at::Tensor();
    const at::Tensor fused = propagate_symmetric(x_nC, *plan, world());
    (fused * w_nC).sum().backward();
    EXPECT_LT(largest_difference(once, fused), 1e-13);
    EXPECT_LT(largest_difference(grad_nC, x_nC.grad()), 1e-13);
    // S is symmetric, so the adjoint is the propagation itself.
    EXPECT_LT(largest_difference(grad_nC, propagate_symmetric(w_nC, *plan, world())), 1e-12);
  }
}

TEST_P(SpmmEveryDivision, PropagationAgreesWithFiniteDifferences) {
  for (const CutView& view : graph.views()) {
    const auto plan = graph.shard().plan(view);
    const at::Tensor w_nC = graph.own_rows(random_tensor({graph.graph().nodes, 2}, 13));
    const at::Tensor x_nC = graph.own_rows(random_tensor({graph.graph().nodes, 2}, 14));
    const at::Tensor step_nC = graph.own_rows(random_tensor({graph.graph().nodes, 2}, 15));
    // Squares make the loss curved, which central differences get right to the third order.
    const auto loss = [&](const at::Tensor& x) {
      return (propagate_symmetric(x, *plan, world()).square() * w_nC).sum();
    };
    const at::Tensor leaf = x_nC.clone().requires_grad_();
    loss(leaf).backward();
    const double analytic = sum_over_ranks((leaf.grad() * step_nC).sum());
    const double h = 1e-5;
    const double numeric =
        (sum_over_ranks(loss(x_nC + h * step_nC)) - sum_over_ranks(loss(x_nC - h * step_nC))) /
        (2 * h);
    EXPECT_NEAR(analytic, numeric, 1e-8 * std::max(1.0, std::abs(numeric)));
  }
}

TEST_P(SpmmEveryDivision, ProductAgreesWithFiniteDifferencesEntryByEntry) {
  const auto plan = graph.shard().plan(graph.views().back());
  const std::int64_t m = plan->owned + plan->halo_slots;
  const at::Tensor w_nC = graph.own_rows(random_tensor({graph.graph().nodes, 1}, 16));
  const at::Tensor x_mC = random_tensor({m, 1}, 17);
  const auto loss = [&](const at::Tensor& x) { return (spmm(x, *plan).square() * w_nC).sum(); };
  const at::Tensor leaf = x_mC.clone().requires_grad_();
  loss(leaf).backward();
  const double h = 1e-4;
  for (std::int64_t row = 0; row < m; row += 7) {
    const at::Tensor up = x_mC.clone(), down = x_mC.clone();
    up[row] += h;
    down[row] -= h;
    const double numeric = ((loss(up) - loss(down)) / (2 * h)).item<double>();
    EXPECT_NEAR(leaf.grad()[row].item<double>(), numeric, 1e-7 * std::max(1.0, std::abs(numeric)));
  }
}

TEST_P(SpmmEveryDivision, NodesWithoutEdgesGetExactlyZero) {
  int isolated = 0;
  for (const CutView& view : graph.views()) {
    const auto plan = graph.shard().plan(view);
    const at::Tensor x_nC = at::ones({plan->owned, 8}, at::kDouble).requires_grad_();
    const at::Tensor y_nC = propagate_symmetric(x_nC, *plan, world());
    y_nC.sum().backward();
    for (std::int64_t row = 0; row < plan->owned; ++row) {
      if (plan->degree_n[row].item<int>() > 0) continue;
      ++isolated;
      EXPECT_EQ(y_nC[row].abs().max().item<double>(), 0);
      EXPECT_EQ(x_nC.grad()[row].abs().max().item<double>(), 0);
    }
  }
  EXPECT_GT(sum_over_ranks(at::tensor(isolated)), 0);  // the data set has such nodes
}

TEST_P(SpmmEveryDivision, RepeatsToTheBitWithAnyNumberOfThreads) {
  const auto plan = graph.shard().plan(graph.shard().cut().full_view());
  const at::Tensor x_mC = random_tensor({plan->owned + plan->halo_slots, 8}, 18, at::kFloat);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor once = spmm(x_mC, *plan);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(once, spmm(x_mC, *plan)));
  at::set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Graph, SpmmEveryDivision,
                         ::testing::Combine(::testing::ValuesIn(kDivisions),
                                            ::testing::Values(CutKind::fold, CutKind::window,
                                                              CutKind::none)),
                         [](const auto& info) {
                           return case_name(std::get<0>(info.param)) + "_" +
                                  to_string(std::get<1>(info.param));
                         });

TEST(Spmm, RefusesRowsThatDoNotFit) {
  const DistributedGraph graph("metis", CutKind::fold);
  const auto plan = graph.shard().plan(graph.shard().cut().full_view());
  EXPECT_ANY_THROW(spmm(at::zeros({plan->owned + plan->halo_slots + 1, 8}), *plan));
  EXPECT_ANY_THROW(propagate_symmetric(at::zeros({plan->owned + 1, 8}), *plan, world()));
}

}  // namespace
}  // namespace graphlora
