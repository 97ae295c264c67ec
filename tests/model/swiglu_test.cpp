#include "model/swiglu.hpp"

#include <gtest/gtest.h>

#include "gradient_check.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::relative_error;

TEST(Swiglu, EqualsItsDefinition) {
  at::manual_seed(1);
  for (const std::int64_t width : {1, 16, 50, 1536}) {
    const at::Tensor x = at::randn({5, 2 * width}, at::kDouble) * 4;
    const at::Tensor expected = at::silu(x.narrow(1, 0, width)) * x.narrow(1, width, width);
    EXPECT_LT(relative_error(swiglu(x), expected), 1e-14);
    EXPECT_LT(relative_error(swiglu(x.to(at::kFloat)), expected), 1e-6);
    EXPECT_LT(relative_error(swiglu(x.to(at::kBFloat16)), expected), 1e-2);
  }
}

TEST(Swiglu, ExtremeInputsStayFinite) {
  const at::Tensor gate = at::tensor({-1e30F, -200.0F, -88.0F, 0.0F, 88.0F, 200.0F, 1e30F});
  const at::Tensor x = at::cat({gate, at::ones_like(gate)}).view({1, 14}).requires_grad_(true);
  const at::Tensor y = swiglu(x);
  y.sum().backward();
  EXPECT_TRUE(at::isfinite(y).all().item<bool>()) << y;
  EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>()) << x.grad();
  EXPECT_LT(relative_error(y, at::silu(gate)), 1e-6);
}

TEST(Swiglu, Gradient) {
  at::manual_seed(2);
  const at::Tensor x = testing::leaf({3, 2 * 11});
  testing::expect_gradients([&] { return std::vector{swiglu(x)}; }, {{"gate and up", x}});
}

}  // namespace
}  // namespace graphlora
