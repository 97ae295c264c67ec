#include "core/edit_distance.hpp"

#include <gtest/gtest.h>

namespace graphlora {
namespace {

TEST(EditDistance, CountsEachKindOfEditOnce) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("heat", "heat"), 0U);
  EXPECT_EQ(edit_distance("heat", "heats"), 1U);
  EXPECT_EQ(edit_distance("heat", "eat"), 1U);
  EXPECT_EQ(edit_distance("heat", "heap"), 1U);
  EXPECT_EQ(edit_distance("heat", "haet"), 1U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
}

TEST(EditDistance, OfCodePointsNotOfBytes) {
  EXPECT_EQ(edit_distance(std::u32string_view(U"misérables"), U"miserables"), 1U);
  EXPECT_EQ(edit_distance(std::u32string_view(U"七人の侍"), U"七人侍"), 1U);
}

}  // namespace
}  // namespace graphlora
