// The graph side's local operations by their device path against the CPU's kernels and against
// plain definitions; those that talk to other ranks have suites over every setting of their own.
#include "support/device_path.hpp"

#include "graph/edge_attention.hpp"
#include "graph/planted.hpp"
#include "graph/row_sum.hpp"
#include "graph/scatter_rows.hpp"

namespace graphlora {
namespace {

using namespace test;

class GraphDevicePath : public OnDevicePath {
 protected:
  /// Every rank passes through here, whatever it found.
  void expect_equal(const Function& function, const std::vector<at::Tensor>& inputs) const {
    expect_equal_paths(function, inputs, 1e-12);
  }
};

TEST_P(GraphDevicePath, EdgeAttentionAndItsGradients) {
  for (const std::string& division : kDivisions) {
    const DistributedGraph graph(division, CutKind::fold);
    for (const CutView& view : graph.views()) {
      const auto plan = graph.shard().plan(view);
      for (const auto& [heads, width] : {std::pair<std::int64_t, std::int64_t>{1, 5}, {3, 16}}) {
        at::manual_seed(heads);
        const auto random = [](std::vector<std::int64_t> sizes) {
          return at::randn(sizes, at::kDouble);
        };
        expect_equal(
            [&](const auto& in) { return std::vector{edge_attention(in[0], in[1], in[2], *plan)}; },
            {random({plan->sources(), heads, width}), random({plan->sources(), heads}) * 3,
             random({plan->targets, heads}) * 3});
      }
    }
  }
}

/// Rows shorter and longer than a warp has lanes, in two runs, heads that end inside of a block of
/// columns; in fp32 too, whose blocks are wider.
TEST_P(GraphDevicePath, EdgeAttentionOverRowsOfEveryLength) {
  constexpr std::int64_t kNodes = 700;
  std::mt19937 random(4);
  std::vector<std::int64_t> pointers;
  std::vector<std::int32_t> index;
  std::vector<std::vector<std::int32_t>> uses(kNodes);
  for (std::int64_t target = 0; target < kNodes; ++target) {
    const std::int64_t lengths[] = {target % 7 == 0 ? 0 : target % 40, 3, target % 33};
    pointers.push_back(std::ssize(index));
    for (int group = 0; group < 3; ++group) {
      const std::int64_t length = target == 5 ? 2'000 : lengths[group];
      for (std::int64_t e = 0; e < length; ++e) {
        index.push_back(static_cast<std::int32_t>(random() % kNodes));
        if (group != 1) uses[index.back()].push_back(static_cast<std::int32_t>(target));
      }
      pointers.push_back(std::ssize(index));
    }
  }
  std::vector<std::int64_t> use_pointers{0};
  std::vector<std::int32_t> use_index;
  for (const auto& targets : uses) {
    use_index.insert(use_index.end(), targets.begin(), targets.end());
    use_pointers.push_back(std::ssize(use_index));
  }
  GraphPlan plan;
  plan.owned = plan.targets = kNodes;
  // The middle group is dropped.
  plan.in_edges = make_row_lists(DeviceTensor(at::tensor(pointers)),
                                 DeviceTensor(at::tensor(index)), 3, {1, 2});
  plan.out_edges = make_row_lists(use_pointers, use_index);
  plan.halo_uses = make_row_lists(std::vector<std::int64_t>{0}, {});
  for (const auto& [heads, width] : {std::pair<std::int64_t, std::int64_t>{1, 8}, {2, 9}, {3, 1}}) {
    at::manual_seed(width);
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      expect_equal_paths(
          [&](const auto& in) { return std::vector{edge_attention(in[0], in[1], in[2], plan)}; },
          {at::randn({kNodes, heads, width}).to(type), (at::randn({kNodes, heads}) * 9).to(type),
           (at::randn({kNodes, heads}) * 9).to(type)},
          type == at::kDouble ? 1e-12 : 1e-4);  // the gradients of scores nearly cancel
    }
  }
}

/// Rows of every length around the border between short and long, in two runs, entries beyond the
/// limit left out.
TEST_P(GraphDevicePath, LongRowsAreSummedInParts) {
  constexpr std::int64_t kSources = 500, kLimit = 480;
  std::mt19937 random(3);
  std::vector<std::int64_t> pointers;
  std::vector<std::int32_t> index;
  const std::vector<std::array<std::int64_t, 3>> lengths{
      {0, 0, 0},           {1023, 5, 0}, {1000, 7, 24}, {0, 9, 1024},
      {70'000, 3, 30'001}, {5, 1, 2},    {0, 2, 5'000}, {3'333, 0, 0}};
  for (const auto& groups : lengths) {
    pointers.push_back(static_cast<std::int64_t>(index.size()));
    for (const std::int64_t length : groups) {
      for (std::int64_t e = 0; e < length; ++e)
        index.push_back(static_cast<std::int32_t>(random() % kSources));
      pointers.push_back(static_cast<std::int64_t>(index.size()));
    }
  }
  const auto to_tensor = [](const auto& values) { return at::tensor(values); };
  // The middle group is dropped.
  const RowLists lists =
      make_row_lists(DeviceTensor(to_tensor(pointers)), DeviceTensor(to_tensor(index)), 3, {1, 2});
  const auto rows = static_cast<std::int64_t>(lengths.size());
  for (const std::int64_t width : {1, 8, 65, 100}) {
    const at::Tensor x_mC = random_tensor({kSources, width}, 5),
                     init_kC = random_tensor({rows, width}, 6);
    at::Tensor expected = init_kC.clone(), magnitude = init_kC.abs();
    for (std::int64_t row = 0; row < rows; ++row) {
      lists.each(row, [&](std::int64_t source) {
        if (source >= kLimit) return;
        expected[row] += x_mC[source];
        magnitude[row] += x_mC[source].abs();
      });
    }
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      const at::Tensor out_kC = here(at::full({rows, width}, NAN, type));
      on_path([&] {
        row_sum(lists, here(x_mC).to(type), kLimit, here(init_kC).to(type), out_kC, 1, rows);
      });
      EXPECT_TRUE(at::isnan(out_kC[0]).all().item<bool>());  // not asked for
      const at::Tensor error = (out_kC.cpu() - expected).abs() / magnitude;
      EXPECT_LT(error.slice(0, 1).max().item<double>(), type == at::kDouble ? 1e-13 : 1e-5);
    }
  }
}

TEST_P(GraphDevicePath, EqualRowsAreSummedInTheOrderGiven) {
  for (const std::int64_t count : {0, 1, 4'000}) {
    const at::Tensor rows_S = at::randint(0, 90, {count}, at::kLong) * 3;
    const at::Tensor values_SC = random_tensor({count, 7}, 9, at::kFloat);
    at::Tensor expected_nC = random_tensor({270, 7}, 10, at::kFloat);
    const at::Tensor target_nC = here(expected_nC.clone());
    at::Tensor sums_nC = at::zeros_like(expected_nC);
    for (std::int64_t s = 0; s < count; ++s)
      sums_nC[rows_S[s].item<std::int64_t>()] += values_SC[s];
    const RowTotals totals = on_path([&] { return sum_equal_rows(rows_S, here(values_SC)); });
    EXPECT_TRUE(totals.sums_UC.cpu().equal(sums_nC.index_select(0, totals.rows_U)));
    EXPECT_TRUE(totals.rows_U.equal(std::get<0>(at::_unique(rows_S, /*sorted=*/true))));
    on_path([&] { add_rows(target_nC, rows_S, here(values_SC)); });
    EXPECT_TRUE(target_nC.cpu().equal(expected_nC + sums_nC));
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, GraphDevicePath, kDevices, device_name);

}  // namespace
}  // namespace graphlora
