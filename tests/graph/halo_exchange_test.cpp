#include "graph/halo_exchange.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "graph/on_division.hpp"

namespace graphlora {
namespace {

using namespace test;

class HaloExchangeEveryDivision : public OnDivision {};

// Whether each halo slot of this rank is used by an edge in force, by exhaustive search.
std::vector<bool> slots_in_use(const DistributedGraph& graph, const CutView& view) {
  const at::Tensor used_N = graph.own_rows(graph.dense(view)).sum(0) > 0;
  std::vector<bool> used;
  for (std::int64_t slot = 0; slot < graph.shard().halo_count(); ++slot) {
    used.push_back(used_N[graph.shard().halo()[slot].item<std::int64_t>()].item<bool>());
  }
  return used;
}

TEST_P(HaloExchangeEveryDivision, BringsTheRowsOfForeignSources) {
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    for (const std::int64_t width : {1, 8, 33}) {
      const at::Tensor x_NC = random_tensor({graph().graph().nodes, width}, 1);
      const at::Tensor y_mC = halo_exchange(here(graph().own_rows(x_NC)), *plan, world()).cpu();
      EXPECT_TRUE(at::equal(y_mC.narrow(0, 0, plan->owned), graph().own_rows(x_NC)));
      const at::Tensor halo_hC = y_mC.narrow(0, plan->owned, plan->halo_slots);
      const at::Tensor expected_hC = x_NC.index_select(0, graph().shard().halo());
      const auto used = slots_in_use(graph(), view);
      for (std::int64_t slot = 0; slot < plan->halo_slots; ++slot) {
        EXPECT_TRUE(!used[slot] || at::equal(halo_hC[slot], expected_hC[slot])) << slot;
      }
    }
  }
}

TEST_P(HaloExchangeEveryDivision, UnderAWindowOnlyUsedRowsTravel) {
  if (parameter<1>() != CutKind::window) return;
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    const auto used = slots_in_use(graph(), view);
    EXPECT_EQ(plan->halo, std::count(used.begin(), used.end(), true));
    const at::Tensor y_mC =
        halo_exchange(here(at::ones({plan->owned, 2}, at::kDouble)), *plan, world()).cpu();
    for (std::int64_t slot = 0; slot < plan->halo_slots; ++slot) {
      EXPECT_EQ(y_mC[plan->owned + slot][0].item<double>(), used[slot] ? 1 : 0);
    }
  }
}

TEST_P(HaloExchangeEveryDivision, MovesTheHaloBytesAndNoMore) {
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    world().reset_counters();
    halo_exchange(here(at::ones({plan->owned, 8}, at::kFloat)), *plan, world());
    std::int64_t rows = 0;
    for (const auto count : plan->send_counts) rows += count;
    EXPECT_EQ(world().counter(Traffic::halo).bytes, rows * 8 * 4);
  }
}

TEST_P(HaloExchangeEveryDivision, AdjointSendsGradientsHome) {
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    const at::Tensor x_NC = random_tensor({graph().graph().nodes, 8}, 2);
    const at::Tensor w_mC =
        random_tensor({plan->owned + plan->halo_slots, 8}, 100 + world().rank());
    const at::Tensor x_nC = here(graph().own_rows(x_NC)).requires_grad_();
    (halo_exchange(x_nC, *plan, world()) * here(w_mC)).sum().backward();

    // Every rank's weights as gradients of all nodes, summed; rows that do not travel have none.
    at::Tensor total_NC = at::zeros({graph().graph().nodes, 8}, at::kDouble);
    const at::Tensor receive = plan->receive_rows.cpu();
    total_NC.index_add_(0, graph().shard().halo().index_select(0, receive),
                        w_mC.narrow(0, plan->owned, plan->halo_slots).index_select(0, receive));
    total_NC.index_add_(0, graph().shard().owned(), w_mC.narrow(0, 0, plan->owned));
    world().all_reduce(total_NC, ReduceOp::sum, Traffic::control).wait();
    EXPECT_LT(largest_difference(x_nC.grad(), graph().own_rows(total_NC)), 1e-12);
  }
}

TEST_P(HaloExchangeEveryDivision, AgreesWithFiniteDifferences) {
  const auto plan = graph().shard().plan(graph().views().back());
  const at::Tensor x_nC = here(graph().own_rows(random_tensor({graph().graph().nodes, 3}, 3)));
  const at::Tensor step_nC = here(graph().own_rows(random_tensor({graph().graph().nodes, 3}, 4)));
  const at::Tensor w_mC =
      here(random_tensor({plan->owned + plan->halo_slots, 3}, 50 + world().rank()));
  const auto loss = [&](const at::Tensor& x) {
    return (halo_exchange(x, *plan, world()).square() * w_mC).sum();
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

INSTANTIATE_TEST_SUITE_P(Graph, HaloExchangeEveryDivision,
                         ::testing::Combine(kEverySettingAndPath, ::testing::ValuesIn(kDivisions),
                                            kEveryCut),
                         name_of_division);

TEST(NodeMap, KnowsOwnerAndRowOfEveryNode) {
  for (const auto& how : kDivisions) {
    const DistributedGraph graph(how, CutKind::fold);
    const NodeMap& map = graph.map();
    EXPECT_EQ(map.nodes(), graph.dataset().nodes());
    const auto owner = divide(graph.graph(), how, world().size()).owner;
    for (std::int64_t node = 0; node < map.nodes(); ++node) EXPECT_EQ(map.owner(node), owner[node]);
    for (std::int64_t row = 0; row < graph.shard().owned_count(); ++row) {
      EXPECT_EQ(map.local(graph.shard().owned()[row].item<std::int64_t>()), row);
    }
  }
}

TEST(NodeMap, RefusesNodesOwnedTwiceOrNever) {
  const std::int64_t ranks = world().size();
  const auto ids = [&](std::int64_t first) { return at::arange(first, first + 3, at::kLong); };
  const std::int64_t own = 3 * world().rank();
  EXPECT_NO_THROW(NodeMap(world(), ids(own), 3 * ranks));
  EXPECT_THROW(NodeMap(world(), ids(own), 3 * ranks + 1), DataError);
  EXPECT_THROW(NodeMap(world(), ids(own + 1), 3 * ranks), DataError);
  const bool last = world().rank() + 1 == world().size();
  EXPECT_THROW(NodeMap(world(), last ? at::tensor({0, 0, 1}, at::kLong) : ids(own), 3 * ranks),
               DataError);
  EXPECT_THROW(NodeMap(world(), last ? at::tensor({-1, -2, -3}, at::kLong) : ids(own), 3 * ranks),
               DataError);
}

}  // namespace
}  // namespace graphlora
