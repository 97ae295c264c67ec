// Gradient sums over ranks against sums that each rank computes alone, and the table they follow.
#include "dist/gradient_sync.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "support/devices.hpp"

namespace graphlora {
namespace {

using test::world;

constexpr std::array kPlacements{Placement::lora_a_column,
                                 Placement::lora_b_column,
                                 Placement::lora_a_row,
                                 Placement::lora_b_row,
                                 Placement::lambda,
                                 Placement::projector,
                                 Placement::gnn};

/// Two parameters a placement, of both types and different sizes; one is a scalar.
std::vector<Parameter> make_parameters(at::Device device) {
  std::vector<Parameter> parameters;
  const at::TensorOptions on = at::device(device);
  for (const Placement placement : kPlacements) {
    const auto n = static_cast<std::int64_t>(placement);
    parameters.push_back({fmt::format("double.{}", n),
                          at::ones({n + 1, 3}, on.dtype(at::kDouble)).requires_grad_(), placement,
                          true});
    parameters.push_back({fmt::format("float.{}", n),
                          (n == 4 ? at::ones({}, on) : at::ones({7, n + 2}, on)).requires_grad_(),
                          placement, true});
  }
  return parameters;
}

/// What rank `rank` finds for parameter i; undefined for some (rank, i), and for i = 5 everywhere.
at::Tensor local_gradient(int rank, std::size_t i, const at::Tensor& like) {
  if (i == 5 || (i + rank) % 4 == 0) return {};
  at::Generator random = at::make_generator<at::CPUGeneratorImpl>(100 * rank + i);
  return at::randint(-50, 50, like.sizes(), random, at::dtype(like.scalar_type()))
      .to(like.device());
}

at::Tensor expected_sum(std::size_t i, const at::Tensor& like) {
  at::Tensor sum = at::zeros_like(like, like.options().requires_grad(false));
  for (int rank = 0; rank < world().size(); ++rank) {
    const at::Tensor part = local_gradient(rank, i, like);
    if (part.defined()) sum += part;
  }
  return sum;
}

void fill_gradients(std::vector<Parameter>& parameters) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].value.mutable_grad() = local_gradient(world().rank(), i, parameters[i].value);
  }
}

std::int64_t parameter_bytes(ProcessGrid& grid) {
  return grid.world().counter(Traffic::parameters).bytes +
         grid.data().counter(Traffic::parameters).bytes;
}

/// Over CPU and GPU, MPI and NCCL.
class SumsOfGradients : public test::OnSetting {};

TEST(ReductionTable, EveryPlacementHasItsAxis) {
  const std::map<Placement, std::pair<Axis, bool>> design{
      {Placement::lora_a_column, {Axis::data, false}},
      {Placement::lora_b_column, {Axis::data, true}},
      {Placement::lora_a_row, {Axis::data, true}},
      {Placement::lora_b_row, {Axis::data, false}},
      {Placement::lambda, {Axis::data, false}},
      {Placement::projector, {Axis::world, false}},
      {Placement::gnn, {Axis::world, false}}};
  for (const auto& [placement, row] : design) {
    EXPECT_EQ(reduction_axis(placement), row.first) << static_cast<int>(placement);
    EXPECT_EQ(is_sliced(placement), row.second) << static_cast<int>(placement);
  }
}

TEST_P(SumsOfGradients, SumsOverRanksInAnyBucketSize) {
  ProcessGrid grid(job().world(), 1);
  for (const std::int64_t bucket_bytes : {1, 100, 1 << 20}) {
    std::vector<Parameter> parameters = make_parameters(device());
    GradientSync sync(grid, parameters, bucket_bytes);
    for (int step = 0; step < 2; ++step) {
      fill_gradients(parameters);
      grid.world().reset_counters();
      grid.data().reset_counters();
      sync.start({Placement::projector, Placement::gnn});
      sync.start({Placement::lora_a_column, Placement::lora_b_column, Placement::lora_a_row,
                  Placement::lora_b_row, Placement::lambda});
      sync.wait();
      EXPECT_EQ(parameter_bytes(grid), sync.bytes_per_step());
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        const at::Tensor& value = parameters[i].value;
        EXPECT_TRUE(value.grad().defined() && at::equal(value.grad(), expected_sum(i, value)))
            << parameters[i].name << ", buckets of " << bucket_bytes;
      }
    }
  }
}

TEST_P(SumsOfGradients, BytesAreTheParametersOwn) {
  ProcessGrid grid(job().world(), 1);
  const std::vector<Parameter> parameters = make_parameters(device());
  std::int64_t bytes = 0;
  for (const Parameter& parameter : parameters)
    bytes += parameter.value.numel() * static_cast<std::int64_t>(parameter.value.element_size());
  EXPECT_EQ(GradientSync(grid, parameters).bytes_per_step(), bytes);
}

TEST_P(SumsOfGradients, KeepsTheGradientsTensor) {
  ProcessGrid grid(job().world(), 1);
  std::vector<Parameter> parameters = make_parameters(device());
  fill_gradients(parameters);
  for (Parameter& parameter : parameters)
    parameter.value.mutable_grad() = at::ones_like(parameter.value).detach();
  const at::Tensor before = parameters[0].value.grad();
  GradientSync sync(grid, parameters);
  sync.start({Placement::lora_a_column});
  sync.wait();
  EXPECT_TRUE(parameters[0].value.grad().is_same(before));
  EXPECT_EQ(before[0][0].item<double>(), world().size());
  EXPECT_EQ(parameters[12].value.grad()[0][0].item<double>(), 1) << "was not started";
}

TEST_P(SumsOfGradients, BreakingARowOfTheTableBreaksItsSum) {
  ProcessGrid grid(job().world(), 1);
  for (const Placement broken : kPlacements) {
    std::vector<Parameter> parameters = make_parameters(device());
    for (Parameter& parameter : parameters)
      parameter.value.mutable_grad() = at::ones_like(parameter.value).detach();
    GradientSync sync(grid, parameters);
    sync.override_axis_for_test(broken, std::nullopt);
    grid.world().reset_counters();
    grid.data().reset_counters();
    sync.start({kPlacements.begin(), kPlacements.end()});
    sync.wait();
    EXPECT_LT(parameter_bytes(grid), sync.bytes_per_step());
    for (const Parameter& parameter : parameters) {
      const double expected = parameter.placement == broken ? 1 : world().size();
      EXPECT_EQ(parameter.value.grad().max().item<double>(), expected) << parameter.name;
    }
  }
}

class Replicas : public test::OnSetting {};

/// Message of the CommError, empty if there was none.
std::string difference(ProcessGrid& grid, const std::vector<Parameter>& parameters) {
  try {
    check_replicas_equal(grid, parameters);
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

TEST_P(Replicas, EqualOnesPass) {
  ProcessGrid grid(job().world(), 1);
  EXPECT_EQ(difference(grid, make_parameters(device())), "");
  EXPECT_EQ(difference(grid, {}), "");
}

TEST_P(Replicas, ADifferenceInOneBitIsNamed) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  ProcessGrid grid(job().world(), 1);
  const int last = world().size() - 1;
  for (std::size_t i = 0; i < make_parameters(device()).size(); ++i) {
    std::vector<Parameter> parameters = make_parameters(device());
    if (world().rank() == last) {
      const at::NoGradGuard no_grad;
      parameters[i].value.view(-1)[-1].fill_(std::nextafter(1.0F, 2.0F));
    }
    const std::string message = difference(grid, parameters);
    EXPECT_NE(message.find(parameters[i].name + " on rank " + std::to_string(last)),
              std::string::npos)
        << message;
  }
}

TEST_P(Replicas, AMissingParameterIsNoticed) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  ProcessGrid grid(job().world(), 1);
  std::vector<Parameter> parameters = make_parameters(device());
  if (world().rank() == 1) parameters.pop_back();
  EXPECT_NE(difference(grid, parameters).find("rank 1 holds"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Over, SumsOfGradients, test::kEverySetting, test::name_of_setting);
INSTANTIATE_TEST_SUITE_P(Over, Replicas, test::kEverySetting, test::name_of_setting);

TEST(ProcessGrid, IsTensorFastest) {
  for (int t = 1; t <= world().size(); ++t) {
    if (world().size() % t != 0) continue;
    const ProcessGrid grid(test::job().world(), t);
    EXPECT_EQ(grid.replicas(), world().size() / t);
    EXPECT_EQ(grid.tensor_parallel(), t);
    EXPECT_EQ(grid.replica() * t + grid.tensor_rank(), world().rank());
    // The communicators hold the ranks that the grid says.
    EXPECT_EQ(grid.tensor().all_gather(grid.replica(), Traffic::control),
              std::vector<std::int64_t>(t, grid.replica()));
    EXPECT_EQ(grid.data().all_gather(grid.tensor_rank(), Traffic::control),
              std::vector<std::int64_t>(grid.replicas(), grid.tensor_rank()));
    const auto ranks = grid.tensor().all_gather(world().rank(), Traffic::control);
    for (int i = 0; i < t; ++i) EXPECT_EQ(ranks[i], grid.replica() * t + i);
  }
}

TEST(ProcessGrid, RefusesSizesThatDoNotDivide) {
  for (const int t : {0, -1, 5, world().size() + 1})
    EXPECT_THROW(ProcessGrid(test::job().world(), t), ConfigError) << t;
}

TEST(ProcessGrid, RefusesReplicasOnTwoHosts) {
  const int size = world().size(), last = size - 1;
  if (size == 1) GTEST_SKIP() << "needs two ranks";
  const std::string host = world().rank() == last ? "b" : "a";
  try {
    const ProcessGrid grid(test::job().world(), size, host);
    ADD_FAILURE() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find(fmt::format("ranks 0 and {} share", last)),
              std::string::npos)
        << error.what();
  }
  EXPECT_NO_THROW(ProcessGrid(test::job().world(), 1, host));
}

}  // namespace
}  // namespace graphlora
