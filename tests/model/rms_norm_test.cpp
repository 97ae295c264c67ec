#include "model/rms_norm.hpp"

#include <gtest/gtest.h>

#include "gradient_check.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::leaf;
using testing::relative_error;

at::Tensor reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x / (x.square().mean(1, true) + eps).sqrt() * weight;
}

TEST(RmsNorm, EqualsItsDefinition) {
  at::manual_seed(1);
  for (const std::int64_t width : {1, 5, 16, 36, 576}) {
    const at::Tensor x = at::randn({7, width}, at::kDouble),
                     weight = at::randn({width}, at::kDouble);
    const at::Tensor expected = reference(x, weight, 1e-5);
    const auto error = [&](at::ScalarType type) {
      return relative_error(rms_norm(x.to(type), weight.to(type), 1e-5).normed_TH, expected);
    };
    EXPECT_LT(error(at::kDouble), 1e-14);
    EXPECT_LT(error(at::kFloat), 1e-6);
    EXPECT_LT(error(at::kBFloat16), 1e-2);
  }
}

TEST(RmsNorm, GradientsOfBothOutputs) {
  at::manual_seed(2);
  const at::Tensor x = leaf({3, 21}), weight = at::randn({21}, at::kDouble);
  testing::expect_gradients(
      [&] {
        const Normalized n = rms_norm(x, weight, 1e-5);
        return std::vector{n.stream_TH * 1, n.normed_TH};
      },
      {{"x", x}});
}

TEST(RmsNorm, GradientOfOneOutputAlone) {
  at::manual_seed(3);
  const at::Tensor x = leaf({2, 9}), weight = at::randn({9}, at::kDouble);
  testing::expect_gradients([&] { return std::vector{rms_norm(x, weight, 1e-5).normed_TH}; },
                            {{"x", x}});
}

}  // namespace
}  // namespace graphlora
