#include "model/projector.hpp"

#include <gtest/gtest.h>

namespace graphlora {
namespace {

TEST(Projector, IsTheTwoLayerPerceptronOfItsParameters) {
  const Projector projector(5, 7, 3, at::kDouble, 1);
  ASSERT_EQ(projector.parameters().size(), 4U);
  EXPECT_EQ(projector.parameters()[0].name, "projector.0.weight");
  EXPECT_EQ(projector.parameters()[3].name, "projector.2.bias");
  const at::Tensor e = at::randn({4, 5}, at::kDouble);
  const auto& p = projector.parameters();
  const at::Tensor hidden = (at::mm(e, p[0].value.t()) + p[1].value).clamp_min(0);
  EXPECT_TRUE(at::allclose(projector.forward(e), at::mm(hidden, p[2].value.t()) + p[3].value, 1e-13,
                           1e-13));
  EXPECT_EQ(projector.forward(at::empty({0, 5}, at::kDouble)).size(0), 0);
}

TEST(Projector, InputScaleIsFoldedIntoTheFirstLayer) {
  const at::Tensor scale = at::tensor({2.0, 0.5, 1.0, 3.0, 10.0}, at::kDouble);
  const Projector plain(5, 7, 3, at::kDouble, 1);
  Projector scaled(5, 7, 3, at::kDouble, 1);
  scaled.scale_input(scale);
  const at::Tensor e = at::randn({4, 5}, at::kDouble);
  EXPECT_TRUE(at::allclose(scaled.forward(e), plain.forward(e * scale), 1e-12, 1e-12));
}

TEST(Projector, SameDrawsInEveryPrecision) {
  const Projector a(5, 7, 3, at::kDouble, 1), b(5, 7, 3, at::kFloat, 1), c(5, 7, 3, at::kDouble, 2);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(at::equal(a.parameters()[i].value.to(at::kFloat), b.parameters()[i].value));
    EXPECT_FALSE(at::equal(a.parameters()[i].value, c.parameters()[i].value));
  }
}

}  // namespace
}  // namespace graphlora
