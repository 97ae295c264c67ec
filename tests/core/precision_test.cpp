#include "core/precision.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace graphlora {
namespace {

TEST(Precision, NamesAndTypes) {
  EXPECT_EQ(Precision::parse("bf16").activation, at::kBFloat16);
  EXPECT_EQ(Precision::parse("bf16").parameter, at::kFloat);
  EXPECT_EQ(Precision::parse("fp32").activation, at::kFloat);
  EXPECT_EQ(Precision::parse("fp32").parameter, at::kFloat);
  EXPECT_EQ(Precision::parse("fp64").activation, at::kDouble);
  EXPECT_EQ(Precision::parse("fp64").parameter, at::kDouble);
  EXPECT_THROW(Precision::parse("fp16"), ConfigError);
  EXPECT_THROW(Precision::parse(""), ConfigError);
}

}  // namespace
}  // namespace graphlora
