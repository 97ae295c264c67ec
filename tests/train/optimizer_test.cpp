// Shapes: n owned rows, D = d_e, r rank, S sparse rows.
#include "train/optimizer.hpp"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "support/device_path.hpp"

namespace graphlora {
namespace {

/// All parameters move, for the n-th time.
std::function<std::int64_t(const Parameter&)> update(std::int64_t n) {
  return [n](const Parameter&) { return n; };
}

Parameter parameter(const std::string& name, at::Tensor value,
                    Placement placement = Placement::projector, bool decay = true) {
  return {name, std::move(value).requires_grad_(), placement, decay};
}

at::Tensor tensor_of(const nlohmann::json& values) {
  return at::tensor(values.get<std::vector<double>>(), at::kDouble);
}

void expect_close(const at::Tensor& a, const at::Tensor& b, double tolerance) {
  EXPECT_TRUE(at::allclose(a, b, tolerance, tolerance)) << (a - b).abs().max().item<double>();
}

TEST(Optimizer, AdamWEqualsTorchInFp64) {
  const auto golden = read_json("tests/golden/optimizer.json");
  OptimizerConfig config;
  config.lr = golden.at("lr");
  config.weight_decay = golden.at("weight_decay");
  config.epsilon = golden.at("epsilon");
  const at::Tensor weight = tensor_of(golden.at("weight")).reshape({5, 3});
  const at::Tensor bias = tensor_of(golden.at("bias"));
  Optimizer optimizer({parameter("weight", weight), parameter("bias", bias, Placement::gnn, false)},
                      config);
  std::int64_t number = 0;
  for (const auto& step : golden.at("steps")) {
    weight.mutable_grad() = tensor_of(step.at("weight_grad")).reshape({5, 3});
    bias.mutable_grad() = tensor_of(step.at("bias_grad"));
    optimizer.step(step.at("factor"), update(++number));
    EXPECT_FALSE(weight.grad().defined());
    expect_close(weight.detach().flatten(), tensor_of(step.at("weight")), 1e-12);
    expect_close(bias.detach(), tensor_of(step.at("bias")), 1e-12);
    expect_close(optimizer.states()[0].exp_avg.flatten(), tensor_of(step.at("weight_exp_avg")),
                 1e-12);
    expect_close(optimizer.states()[0].exp_avg_sq.flatten(),
                 tensor_of(step.at("weight_exp_avg_sq")), 1e-12);
  }
}

TEST(Optimizer, UndefinedGradientIsZero) {
  const at::Tensor a = at::randn({7}), b = a.clone();
  OptimizerConfig config;
  config.weight_decay = 0.1;
  Optimizer optimizer({parameter("a", a), parameter("b", b)}, config);
  a.mutable_grad() = at::ones({7});
  b.mutable_grad() = at::ones({7});
  optimizer.step(1, update(1));
  b.mutable_grad() = at::zeros({7});
  optimizer.step(1, update(2));
  EXPECT_TRUE(at::equal(a.detach(), b.detach()));
}

TEST(Optimizer, OnlyWhatTrainsMovesAndEveryGradientIsDropped) {
  const at::Tensor a = at::randn({3}), b = at::randn({3});
  const at::Tensor b_before = b.clone();
  Optimizer optimizer({parameter("a", a), parameter("b", b, Placement::gnn)}, {});
  a.mutable_grad() = at::ones({3});
  b.mutable_grad() = at::ones({3});
  optimizer.step(1, [](const Parameter& p) { return p.placement == Placement::gnn ? 0 : 1; });
  EXPECT_TRUE(at::equal(b.detach(), b_before));
  EXPECT_EQ(optimizer.states()[1].exp_avg.abs().sum().item<float>(), 0);
  EXPECT_FALSE(a.grad().defined());
  EXPECT_FALSE(b.grad().defined());
}

TEST(Optimizer, AParameterThatStartsLaterMovesLikeOneThatStartsAtOnce) {
  const at::Tensor early = at::zeros({3}), late = at::zeros({3});
  Optimizer optimizer({parameter("early", early), parameter("late", late, Placement::gnn)}, {});
  at::Tensor early_after_3;
  for (std::int64_t step = 1; step <= 6; ++step) {
    early.mutable_grad() = at::arange(3, at::kFloat);
    late.mutable_grad() = at::arange(3, at::kFloat);
    optimizer.step(1, [&](const Parameter& p) {
      return p.placement == Placement::gnn ? std::max<std::int64_t>(0, step - 3) : step;
    });
    if (step == 3) early_after_3 = early.detach().clone();
  }
  EXPECT_GT(early_after_3.abs().max().item<float>(), 0);
  EXPECT_TRUE(at::equal(late.detach(), early_after_3));
}

TEST(Optimizer, EachPlacementHasItsRate) {
  OptimizerConfig config;
  config.lr = 1;
  config.lr_lora = 2;
  config.lr_projector = 0;
  EXPECT_EQ(config.rate(Placement::lora_a_column), 2);
  EXPECT_EQ(config.rate(Placement::lora_b_row), 2);
  EXPECT_EQ(config.rate(Placement::lambda), 2);
  EXPECT_EQ(config.rate(Placement::projector), 0);
  EXPECT_EQ(config.rate(Placement::gnn), 1);
  EXPECT_EQ(config.embedding_rate(), 1);
  config.lr_embedding = 0.5;
  EXPECT_EQ(config.embedding_rate(), 0.5);
}

TEST(Optimizer, Sgd) {
  const at::Tensor a = at::ones({2, 2}, at::kDouble);
  OptimizerConfig config;
  config.type = "sgd";
  config.lr = 0.5;
  config.weight_decay = 0.1;  // sgd knows no decay
  Optimizer optimizer({parameter("a", a)}, config);
  EXPECT_FALSE(optimizer.states()[0].exp_avg.defined());
  a.mutable_grad() = at::arange(4, at::kDouble).reshape({2, 2});
  optimizer.step(0.5, update(1));
  EXPECT_TRUE(at::equal(a.detach(), 1 - 0.25 * at::arange(4, at::kDouble).reshape({2, 2})));

  EmbeddingTable table{
      .weight_nD = at::ones({3, 2}, at::kDouble), .exp_avg_nD = {}, .exp_avg_sq_nD = {}};
  EmbeddingGradient gradient;
  gradient.set_sparse(at::arange(3), at::full({3, 2}, 2, at::kDouble));
  optimizer.step_embedding(table, gradient, 1, 1);
  EXPECT_TRUE(at::equal(table.weight_nD, at::zeros({3, 2}, at::kDouble)));
  EXPECT_FALSE(table.exp_avg_nD.defined());
}

TEST(Optimizer, UnknownType) {
  OptimizerConfig config;
  config.type = "adam";
  EXPECT_THROW(Optimizer({}, config), ConfigError);
}

TEST(Optimizer, LargeParametersUseEveryThreadAlike) {
  const at::Tensor a = at::randn({100003}), b = a.clone();
  const at::Tensor gradient = at::randn({100003});
  const int threads = at::get_num_threads();
  for (const auto& [value, count] : {std::pair(a, 1), std::pair(b, 3)}) {
    at::set_num_threads(count);
    Optimizer optimizer({parameter("p", value)}, {});
    value.mutable_grad() = gradient.clone();
    optimizer.step(1, update(1));
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(a.detach(), b.detach()));
}

/// A gradient of any combination of parts, and the sum that it stands for.
struct Combination {
  EmbeddingGradient gradient;
  at::Tensor total_nD;
  Combination(std::int64_t n, std::int64_t D, std::int64_t r, bool low_rank, bool dense,
              bool sparse, at::ScalarType type) {
    const auto options = at::dtype(type);
    total_nD = at::zeros({n, D}, options);
    if (low_rank) {
      gradient.low_rank_nr = at::randn({n, r}, options);
      gradient.factor_rD = at::randn({r, D}, options);
      total_nD += gradient.low_rank_nr.mm(gradient.factor_rD);
    }
    if (dense) {
      gradient.dense_nD = at::randn({n, D}, options);
      total_nD += gradient.dense_nD;
    }
    if (sparse) {
      const at::Tensor rows_S = at::randint(0, n / 3, {60}, at::kLong) * 3;  // with repeats
      const at::Tensor values_SD = at::randn({60, D}, options);
      gradient.set_sparse(rows_S, values_SD);
      total_nD.index_add_(0, rows_S, values_SD);
    }
  }
};

class OptimizerEmbedding
    : public testing::TestWithParam<std::tuple<bool, bool, bool, at::ScalarType, const char*>> {};

TEST_P(OptimizerEmbedding, EqualsTheUpdateByTheMaterializedGradient) {
  const auto& [low_rank, dense, sparse, type, rule] = GetParam();
  at::manual_seed(1);
  OptimizerConfig config;
  config.type = rule;
  config.lr = 0.5;
  config.lr_embedding = 1e-2;
  config.weight_decay = 0.3;  // E has none
  OptimizerConfig plain = config;
  plain.weight_decay = 0;
  plain.lr = plain.lr_embedding;
  // Widths within, at and beyond whole vectors and tiles.
  for (const auto& [n, D, r] : {std::tuple(201, 10, 4), std::tuple(130, 1, 1),
                                std::tuple(99, 64, 64), std::tuple(66, 1037, 8)}) {
    EmbeddingTable table{
        .weight_nD = at::randn({n, D}, at::dtype(type)), .exp_avg_nD = {}, .exp_avg_sq_nD = {}};
    const at::Tensor dense_nD = table.weight_nD.clone();
    Optimizer oracle({parameter("E", dense_nD)}, plain);
    const Optimizer optimizer({}, config);
    for (std::int64_t step = 1; step <= 4; ++step) {
      Combination made(n, D, r, low_rank, dense, sparse, type);
      const double norm = made.total_nD.to(at::kDouble).square().sum().item<double>();
      EXPECT_NEAR(made.gradient.squared_norm(), norm,
                  (type == at::kDouble ? 1e-12 : 1e-4) * (1 + norm));
      made.gradient.scale_(0.5);
      dense_nD.mutable_grad() = made.total_nD * 0.5;
      oracle.step(0.5, update(step));
      optimizer.step_embedding(table, made.gradient, step, 0.5);
      const double tolerance = type == at::kDouble ? 1e-12 : 2e-4;
      expect_close(table.weight_nD, dense_nD.detach(), tolerance);
      if (config.type == "sgd") continue;
      expect_close(table.exp_avg_nD, oracle.states()[0].exp_avg, tolerance);
      expect_close(table.exp_avg_sq_nD, oracle.states()[0].exp_avg_sq, tolerance);
    }
  }
}

std::string case_name(const testing::TestParamInfo<OptimizerEmbedding::ParamType>& info) {
  const auto& [low_rank, dense, sparse, type, rule] = info.param;
  return std::string(low_rank ? "low_rank_" : "") + (dense ? "dense_" : "") +
         (sparse ? "sparse_" : "") + (low_rank || dense || sparse ? "" : "none_") +
         c10::toString(type) + "_" + rule;
}

INSTANTIATE_TEST_SUITE_P(Forms, OptimizerEmbedding,
                         testing::Combine(testing::Bool(), testing::Bool(), testing::Bool(),
                                          testing::Values(at::kDouble, at::kFloat),
                                          testing::Values("adamw", "sgd")),
                         case_name);

TEST(OptimizerEmbedding, ARowHasTheSameBitsInAnyPartOfTheTable) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    at::manual_seed(5);
    const std::int64_t n = 157, D = 531;
    const Combination whole(n, D, 7, true, true, true, type);
    const at::Tensor weight_nD = at::randn({n, D}, at::dtype(type));
    EmbeddingTable all{.weight_nD = weight_nD.clone(), .exp_avg_nD = {}, .exp_avg_sq_nD = {}};
    const Optimizer optimizer({}, {});
    for (std::int64_t step = 1; step <= 2; ++step)
      optimizer.step_embedding(all, whole.gradient, step, 1);
    for (const auto& [begin, end] : {std::pair(0, 1), std::pair(1, 7), std::pair(7, 157),
                                     std::pair(150, 157), std::pair(63, 130)}) {
      EmbeddingTable part{.weight_nD = weight_nD.slice(0, begin, end).clone(),
                          .exp_avg_nD = {},
                          .exp_avg_sq_nD = {}};
      const EmbeddingGradient& from = whole.gradient;
      const at::Tensor inside =
          ((from.sparse_rows_S >= begin) & (from.sparse_rows_S < end)).nonzero().flatten();
      EmbeddingGradient gradient;
      gradient.low_rank_nr = from.low_rank_nr.slice(0, begin, end);
      gradient.factor_rD = from.factor_rD;
      gradient.dense_nD = from.dense_nD.slice(0, begin, end);
      gradient.sparse_rows_S = from.sparse_rows_S.index_select(0, inside) - begin;
      gradient.sparse_SD = from.sparse_SD.index_select(0, inside);
      for (std::int64_t step = 1; step <= 2; ++step)
        optimizer.step_embedding(part, gradient, step, 1);
      EXPECT_TRUE(at::equal(part.weight_nD, all.weight_nD.slice(0, begin, end)));
      EXPECT_TRUE(at::equal(part.exp_avg_nD, all.exp_avg_nD.slice(0, begin, end)));
      EXPECT_TRUE(at::equal(part.exp_avg_sq_nD, all.exp_avg_sq_nD.slice(0, begin, end)));
    }
  }
}

TEST(OptimizerEmbedding, RowsThatNeverHadAGradientStayExactlyZero) {
  EmbeddingTable table{.weight_nD = at::zeros({100, 4}), .exp_avg_nD = {}, .exp_avg_sq_nD = {}};
  const Optimizer optimizer({}, {});
  for (std::int64_t step = 1; step <= 3; ++step) {
    EmbeddingGradient gradient;
    gradient.set_sparse(at::tensor({70, 3}, at::kLong), at::ones({2, 4}));
    optimizer.step_embedding(table, gradient, step, 1);
  }
  EXPECT_NE(table.weight_nD[3][0].item<float>(), 0);
  EXPECT_NE(table.weight_nD[70][3].item<float>(), 0);
  EXPECT_EQ(table.weight_nD.ne(0).sum().item<std::int64_t>(), 8);
}

TEST(OptimizerEmbedding, AnEmptyPartIsLegal) {
  EmbeddingTable table{.weight_nD = at::zeros({0, 4}), .exp_avg_nD = {}, .exp_avg_sq_nD = {}};
  EmbeddingGradient gradient;
  gradient.low_rank_nr = at::zeros({0, 2});
  gradient.factor_rD = at::ones({2, 4});
  gradient.set_sparse(at::empty({0}, at::kLong), at::empty({0, 4}));
  Optimizer({}, {}).step_embedding(table, gradient, 1, 1);
  EXPECT_EQ(table.exp_avg_nD.sizes(), table.weight_nD.sizes());
}

TEST(OptimizerEmbedding, SameBitsOnAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    at::manual_seed(3);
    EmbeddingTable table{.weight_nD = at::randn({1000, 16}), .exp_avg_nD = {}, .exp_avg_sq_nD = {}};
    EmbeddingGradient gradient;
    gradient.low_rank_nr = at::randn({1000, 8});
    gradient.factor_rD = at::randn({8, 16});
    gradient.set_sparse(at::randint(0, 1000, {300}, at::kLong), at::randn({300, 16}));
    Optimizer({}, {}).step_embedding(table, gradient, 1, 1);
    results.push_back(table.weight_nD);
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
  EXPECT_TRUE(at::equal(results[0], results[2]));
}

class OptimizerDevicePath : public test::OnDevicePath {};

EmbeddingGradient moved(const EmbeddingGradient& from, at::Device device) {
  EmbeddingGradient to = from;
  for (at::Tensor* part :
       {&to.low_rank_nr, &to.factor_rD, &to.dense_nD, &to.sparse_rows_S, &to.sparse_SD})
    if (part->defined()) *part = part->to(device);
  return to;
}

TEST_P(OptimizerDevicePath, EmbeddingsMoveAsByTheCpusKernel) {
  for (const char* rule : {"adamw", "sgd"}) {
    OptimizerConfig config;
    config.type = rule;
    const Optimizer optimizer({}, config);
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      for (int parts = 0; parts < 8; ++parts) {
        at::manual_seed(parts);
        const std::int64_t n = 77, D = 133;
        const at::Tensor weight_nD = at::randn({n, D}, type);
        EmbeddingTable expected{weight_nD.clone(), {}, {}}, table{here(weight_nD).clone(), {}, {}};
        for (std::int64_t step = 1; step <= 3; ++step) {
          const Combination made(n, D, 8, (parts & 1) != 0, (parts & 2) != 0, (parts & 4) != 0,
                                 type);
          const EmbeddingGradient gradient = moved(made.gradient, device());
          const double norm = made.gradient.squared_norm();
          EXPECT_NEAR(gradient.squared_norm(), norm,
                      (type == at::kDouble ? 1e-12 : 1e-4) * (1 + norm));
          optimizer.step_embedding(expected, made.gradient, step, 0.5);
          on_path([&] { optimizer.step_embedding(table, gradient, step, 0.5); });
        }
        const double tolerance = type == at::kDouble ? 1e-12 : 1e-5;
        expect_close(table.weight_nD.cpu(), expected.weight_nD, tolerance);
        if (config.type == "sgd") continue;
        expect_close(table.exp_avg_nD.cpu(), expected.exp_avg_nD, tolerance);
        expect_close(table.exp_avg_sq_nD.cpu(), expected.exp_avg_sq_nD, tolerance);
      }
    }
  }
}

TEST_P(OptimizerDevicePath, DenseParametersMoveAsByTheCpusKernel) {
  for (const char* rule : {"adamw", "sgd"}) {
    OptimizerConfig config;
    config.type = rule;
    config.weight_decay = 0.1;
    at::manual_seed(4);
    const at::Tensor start = at::randn({100, 37}, at::kDouble), quiet = at::randn({5}, at::kDouble);
    const auto parameters = [&](at::Device where) {
      const auto copy = [&](const at::Tensor& t) { return t.to(where, false, /*copy=*/true); };
      return std::vector{parameter("a", copy(start)), parameter("b", copy(quiet))};
    };
    Optimizer expected(parameters(at::kCPU), config), optimizer(parameters(device()), config);
    for (std::int64_t step = 1; step <= 3; ++step) {
      const at::Tensor gradient = at::randn({37, 100}, at::kDouble).t();  // not contiguous
      expected.parameters()[0].value.mutable_grad() = gradient;
      optimizer.parameters()[0].value.mutable_grad() = here(gradient);  // that of b: undefined
      expected.step(1, update(step));
      on_path([&] { optimizer.step(1, update(step)); });
    }
    for (int i = 0; i < 2; ++i)
      expect_close(optimizer.parameters()[i].value.detach().cpu(),
                   expected.parameters()[i].value.detach(), 1e-12);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, OptimizerDevicePath, test::kDevices, test::device_name);

}  // namespace
}  // namespace graphlora
