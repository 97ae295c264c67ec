#include "model/rotary.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "gradient_check.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

using testing::relative_error;

constexpr double kTheta = 10000;

/// HF's formula: x·cos + rotate_half(x)·sin, per element.
at::Tensor reference(const at::Tensor& x_TND, const at::Tensor& positions_T) {
  at::Tensor y = at::empty_like(x_TND);
  const std::int64_t dim = x_TND.size(2), half = dim / 2;
  for (std::int64_t t = 0; t < x_TND.size(0); ++t) {
    for (std::int64_t d = 0; d < dim; ++d) {
      const double angle = positions_T[t].item<double>() *
                           std::pow(kTheta, -2.0 * static_cast<double>(d % half) / dim);
      const at::Tensor other = d < half ? -x_TND.select(2, d + half) : x_TND.select(2, d - half);
      y.select(2, d)[t].copy_(x_TND.select(2, d)[t] * std::cos(angle) + other[t] * std::sin(angle));
    }
  }
  return y;
}

TEST(Rotary, RotatesTheFirstPartsAndCopiesTheRest) {
  at::manual_seed(1);
  const at::Tensor positions = at::tensor({0, 3, 200, 7}, at::kLong);
  for (const std::int64_t dim : {2, 4, 64}) {
    const at::Tensor x = at::randn({4, 5 * dim}, at::kDouble);
    for (const auto& [type, tolerance] :
         {std::pair{at::kDouble, 1e-13}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-2}}) {
      const RotaryTable table = RotaryTable::make(256, dim, kTheta, type);
      const auto parts = split_and_rotate(x.to(type), {2, 1, 2}, 2, table, positions);
      EXPECT_LT(
          relative_error(parts[0], reference(x.narrow(1, 0, 2 * dim).view({4, 2, dim}), positions)),
          tolerance);
      EXPECT_LT(relative_error(parts[1],
                               reference(x.narrow(1, 2 * dim, dim).view({4, 1, dim}), positions)),
                tolerance);
      EXPECT_TRUE(parts[2].equal(x.to(type).narrow(1, 3 * dim, 2 * dim).reshape({4, 2, dim})));
    }
  }
}

TEST(Rotary, Gradient) {
  at::manual_seed(2);
  const at::Tensor x = testing::leaf({3, 4 * 6}), positions = at::tensor({1, 9, 4}, at::kLong);
  const RotaryTable table = RotaryTable::make(16, 6, kTheta, at::kDouble);
  testing::expect_gradients(
      [&] {
        return split_and_rotate(x, {2, 1, 1}, 2, table, positions);
      },
      {{"x", x}});
}

}  // namespace
}  // namespace graphlora
