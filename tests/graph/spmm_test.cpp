#include "graph/spmm.hpp"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "graph/on_division.hpp"

namespace graphlora {
namespace {

using namespace test;

constexpr Normalization kNormalizations[] = {Normalization::symmetric, Normalization::mean,
                                             Normalization::with_self_loops};

// The normalized adjacency of the whole graph.
at::Tensor normalized(const at::Tensor& a_NN, Normalization normalization) {
  const at::Tensor degree = a_NN.sum(1, /*keepdim=*/true);
  const auto or_zero = [&](const at::Tensor& x) {
    return at::where(degree > 0, x, at::zeros_like(x));
  };
  if (normalization == Normalization::mean) return or_zero(degree.reciprocal()) * a_NN;
  if (normalization == Normalization::symmetric)
    return or_zero(degree.rsqrt()) * a_NN * or_zero(degree.rsqrt()).t();
  const at::Tensor scale = (degree + 1).rsqrt();
  return scale * (a_NN + at::eye(a_NN.size(0), at::kDouble)) * scale.t();
}

/// Finishes every operation as it is issued: what nothing can hide behind.
class Blocking final : public Communicator {
 public:
  explicit Blocking(Communicator& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  Handle all_reduce(at::Tensor tensor, ReduceOp op, Traffic traffic) override {
    return done(inner_.all_reduce(tensor, op, traffic));
  }
  Handle broadcast(at::Tensor tensor, int root, Traffic traffic) override {
    return done(inner_.broadcast(tensor, root, traffic));
  }
  Handle all_gather_rows(at::Tensor send, at::Tensor receive, std::span<const std::int64_t> counts,
                         Traffic traffic) override {
    return done(inner_.all_gather_rows(send, receive, counts, traffic));
  }
  Handle all_to_all_rows(at::Tensor send, std::span<const std::int64_t> send_counts,
                         at::Tensor receive, std::span<const std::int64_t> receive_counts,
                         Traffic traffic) override {
    return done(inner_.all_to_all_rows(send, send_counts, receive, receive_counts, traffic));
  }
  Handle reduce_scatter_rows(at::Tensor send, at::Tensor receive,
                             std::span<const std::int64_t> counts, Traffic traffic) override {
    return done(inner_.reduce_scatter_rows(send, receive, counts, traffic));
  }
  void barrier() override { inner_.barrier(); }
  void group_begin() override { inner_.group_begin(); }
  void group_end() override { inner_.group_end(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return inner_.split(color, key);
  }

 private:
  static Handle done(Handle handle) {
    handle.wait();
    return {};
  }
  Communicator& inner_;
};

class SpmmEveryDivision : public OnDivision {};

TEST_P(SpmmEveryDivision, EqualsDenseProductAtAnyWidth) {
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    const at::Tensor s_NN = normalized(graph().dense(view), Normalization::symmetric);
    for (const std::int64_t width : {1, 3, 8, 9, 40, 77, 256}) {
      const at::Tensor x_NC = random_tensor({graph().graph().nodes, width}, 7);
      const at::Tensor x_nC = here(graph().own_rows(x_NC));
      const at::Tensor y_nC = propagate(x_nC, *plan, world(), Normalization::symmetric);
      EXPECT_LT(largest_difference(y_nC, graph().own_rows(s_NN.matmul(x_NC))), 1e-12);
      const at::Tensor y32_nC =
          propagate(x_nC.to(at::kFloat), *plan, world(), Normalization::symmetric);
      EXPECT_EQ(y32_nC.scalar_type(), at::kFloat);
      EXPECT_LT(largest_difference(y32_nC, y_nC), 1e-4);
    }
  }
}

TEST_P(SpmmEveryDivision, PropagationAndGradientEqualOneProcess) {
  for (const CutView& view : graph().views()) {
    for (const Normalization normalization : kNormalizations) {
      const auto plan = graph().shard().plan(view);
      const at::Tensor s_NN = normalized(graph().dense(view), normalization);
      const at::Tensor x_NC = random_tensor({graph().graph().nodes, 8}, 10);
      const at::Tensor w_NC = random_tensor({graph().graph().nodes, 8}, 11);
      const at::Tensor x_nC = here(graph().own_rows(x_NC)).requires_grad_();
      // Two layers, so that gradients cross parts twice.
      const at::Tensor y_nC =
          propagate(propagate(x_nC, *plan, world(), normalization), *plan, world(), normalization);
      (y_nC * here(graph().own_rows(w_NC))).sum().backward();
      EXPECT_LT(largest_difference(y_nC, graph().own_rows(s_NN.matmul(s_NN.matmul(x_NC)))), 1e-12);
      EXPECT_LT(
          largest_difference(x_nC.grad(), graph().own_rows(s_NN.t().matmul(s_NN.t().matmul(w_NC)))),
          1e-12);
    }
  }
}

TEST_P(SpmmEveryDivision, PropagationAgreesWithFiniteDifferences) {
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    const at::Tensor w_nC = here(graph().own_rows(random_tensor({graph().graph().nodes, 2}, 13)));
    const at::Tensor x_nC = here(graph().own_rows(random_tensor({graph().graph().nodes, 2}, 14)));
    const at::Tensor step_nC =
        here(graph().own_rows(random_tensor({graph().graph().nodes, 2}, 15)));
    // Squares make the loss curved, which central differences get right to the third order.
    const auto loss = [&](const at::Tensor& x) {
      return (propagate(x, *plan, world(), Normalization::mean).square() * w_nC).sum();
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

TEST_P(SpmmEveryDivision, NodesWithoutEdgesGetExactlyZero) {
  int isolated = 0;
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    const at::Tensor leaf = here(at::ones({plan->owned, 8}, at::kDouble)).requires_grad_();
    const at::Tensor result = propagate(leaf, *plan, world(), Normalization::symmetric);
    result.sum().backward();
    const at::Tensor y_nC = result.cpu(), gx_nC = leaf.grad().cpu();
    for (std::int64_t row = 0; row < plan->owned; ++row) {
      if (plan->degree_n.cpu()[row].item<int>() > 0) continue;
      ++isolated;
      EXPECT_EQ(y_nC[row].abs().max().item<double>(), 0);
      EXPECT_EQ(gx_nC[row].abs().max().item<double>(), 0);
    }
  }
  EXPECT_GT(sum_over_ranks(at::tensor(isolated)), 0);  // the data set has such nodes
}

TEST_P(SpmmEveryDivision, HiddenExchangesAndRepeatsGiveTheSameBits) {
  const at::Tensor x_nC =
      here(graph().own_rows(random_tensor({graph().graph().nodes, 8}, 18, at::kFloat)));
  const at::Tensor w_nC =
      here(graph().own_rows(random_tensor({graph().graph().nodes, 8}, 19, at::kFloat)));
  const auto both = [&](Communicator& communicator, const GraphPlan& plan) {
    const at::Tensor leaf = x_nC.clone().requires_grad_();
    const at::Tensor y_nC = propagate(leaf, plan, communicator, Normalization::symmetric);
    (y_nC * w_nC).sum().backward();
    return std::pair(y_nC.detach(), leaf.grad());
  };
  Blocking blocking(world());
  const int threads = at::get_num_threads();
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    at::set_num_threads(1);
    const auto [y, gx] = both(world(), *plan);
    const auto [y_blocking, gx_blocking] = both(blocking, *plan);
    EXPECT_TRUE(at::equal(y, y_blocking) && at::equal(gx, gx_blocking));
    at::set_num_threads(3);
    const auto [y_again, gx_again] = both(world(), *plan);
    EXPECT_TRUE(at::equal(y, y_again) && at::equal(gx, gx_again));
  }
  at::set_num_threads(threads);
}

TEST_P(SpmmEveryDivision, MovesTheRowsOfHaloAndHubsAndNoMore) {
  constexpr std::int64_t kWidth = 8, kBytes = kWidth * 4;
  for (const CutView& view : graph().views()) {
    const auto plan = graph().shard().plan(view);
    world().reset_counters();
    const at::Tensor x_nC = here(at::ones({plan->owned, kWidth}, at::kFloat)).requires_grad_();
    const at::Tensor y_nC = propagate(x_nC, *plan, world(), Normalization::symmetric);
    std::int64_t sent = 0;
    for (const auto count : plan->send_counts) sent += count;
    EXPECT_EQ(world().counter(Traffic::halo).bytes, sent * kBytes);
    const std::int64_t others = world().size() - 1, own = plan->hub_counts[world().rank()];
    // Own hubs' rows to every other rank, the shares of the others' hubs to them.
    const std::int64_t hubs = (own * others + plan->hubs - own) * kBytes;
    EXPECT_EQ(world().counter(Traffic::hubs).bytes, others == 0 ? 0 : hubs);
    y_nC.sum().backward();
    EXPECT_EQ(world().counter(Traffic::halo).bytes, (sent + plan->halo) * kBytes);
    EXPECT_EQ(world().counter(Traffic::hubs).bytes, others == 0 ? 0 : 2 * hubs);
  }
}

INSTANTIATE_TEST_SUITE_P(Graph, SpmmEveryDivision,
                         ::testing::Combine(kEverySettingAndPath,
                                            ::testing::ValuesIn(kAllDivisions), kEveryCut),
                         name_of_division);

TEST(Spmm, RefusesRowsThatDoNotFit) {
  const DistributedGraph graph("metis", CutKind::fold);
  const auto plan = graph.shard().plan(graph.shard().cut().full_view());
  EXPECT_ANY_THROW(
      propagate(at::zeros({plan->owned + 1, 8}), *plan, world(), Normalization::symmetric));
}

}  // namespace
}  // namespace graphlora
