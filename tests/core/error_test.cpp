#include "core/error.hpp"

#include <gtest/gtest.h>

namespace graphlora {
namespace {

TEST(Error, EachKindKnowsItsExitCode) {
  EXPECT_EQ(static_cast<int>(ConfigError("x").code()), 2);
  EXPECT_EQ(static_cast<int>(DataError("x").code()), 3);
  EXPECT_EQ(static_cast<int>(ShapeError("x").code()), 3);
  EXPECT_EQ(static_cast<int>(CommError("x").code()), 4);
  EXPECT_EQ(static_cast<int>(AgreedError(ExitCode::interrupted, "x").code()), 5);
  EXPECT_EQ(static_cast<int>(Error(ExitCode::internal, "x").code()), 70);
}

TEST(Error, MessagesAreFormatted) {
  const DataError error("{}:{}: expected {} columns", "u.data", 3, 4);
  EXPECT_STREQ(error.what(), "u.data:3: expected 4 columns");
}

TEST(Error, IsAStandardException) {
  EXPECT_THROW(throw ShapeError("x"), std::exception);
  EXPECT_THROW(throw AgreedError(ExitCode::data, "x"), Error);
}

}  // namespace
}  // namespace graphlora
