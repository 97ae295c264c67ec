#include "data/title_search.hpp"

#include <gtest/gtest.h>

#include "data/dataset_writer.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

using Names = std::vector<std::string>;
using Items = std::vector<std::int64_t>;

class TitleSearchTest : public testing::Test {
 protected:
  TitleSearchTest() : dataset_(write()) {}
  std::filesystem::path write() {
    RawRatings raw;
    const Names titles{"Toy Story (1995)",    "Matrix, The (1999)", "Les Misérables (1995)",
                       "Toy Story (1995)",    "Heat (1995)",        "七人の侍",
                       "Blood & Wine (1997)", "Toy Soldiers (1991)"};
    for (std::size_t i = 0; i < titles.size(); ++i) {
      raw.add(i % 2 == 0 ? "ann" : "anna", fmt::format("m{}", i), 5, static_cast<int>(10 * i));
      raw.set_title(fmt::format("m{}", i), titles[i]);
    }
    raw.add("bob", "m0", 5, 200);
    write_dataset(directory_ / "dataset", std::move(raw), {.split = {.valid = 0, .test = 0}});
    return directory_ / "dataset";
  }
  TemporaryDirectory directory_;
  Dataset dataset_;
};

TEST_F(TitleSearchTest, FindsTitlesWhateverTheCase) {
  EXPECT_EQ(items_titled(dataset_, "Toy Story (1995)"), (Items{0, 3}));
  EXPECT_EQ(items_titled(dataset_, "  toy STORY (1995) "), (Items{0, 3}));
  EXPECT_EQ(items_titled(dataset_, "LES MISÉRABLES (1995)"), (Items{2}));
  // é as e and an accent.
  EXPECT_EQ(items_titled(dataset_, "Les Mise\xCC\x81rables (1995)"), (Items{2}));
  EXPECT_EQ(items_titled(dataset_, "七人の侍"), (Items{5}));
  for (const char* other : {"", " ", "Toy Story", "Toy", "\xff\xfe", "Toy Story (1996)"})
    EXPECT_EQ(items_titled(dataset_, other), Items{}) << other;
}

TEST_F(TitleSearchTest, OffersWhatWasMeant) {
  const auto first = [&](const char* text) {
    const Names names = nearest_titles(dataset_, text, 1);
    return names.empty() ? std::string() : names[0];
  };
  EXPECT_EQ(first("Toy Stroy (1995)"), "Toy Story (1995)");
  EXPECT_EQ(first("toy story"), "Toy Story (1995)");
  EXPECT_EQ(first("The Matrix"), "Matrix, The (1999)");
  EXPECT_EQ(first("the matrx"), "Matrix, The (1999)");
  EXPECT_EQ(first("misérables"), "Les Misérables (1995)");
  EXPECT_EQ(first("Miserables"), "Les Misérables (1995)");
  EXPECT_EQ(first("heta"), "Heat (1995)");
  EXPECT_EQ(first("七人侍"), "七人の侍");
  EXPECT_EQ(first("zzzzzzzz"), "");
  EXPECT_EQ(first(""), "");
  EXPECT_EQ(first("\xff"), "");
  // A title that two items have is offered once.
  EXPECT_EQ(nearest_titles(dataset_, "Toy Stor", 3), (Names{"Toy Story (1995)"}));
  EXPECT_EQ(nearest_titles(dataset_, "Toy Sory (1991)", 3),
            (Names{"Toy Story (1995)", "Toy Soldiers (1991)"}));
}

TEST_F(TitleSearchTest, TextOfHostileLengthCostsLittle) {
  EXPECT_TRUE(nearest_titles(dataset_, std::string(1 << 20, 'x'), 3).empty());
  EXPECT_TRUE(nearest_users(dataset_, std::string(1 << 20, 'x'), 3).empty());
}

TEST_F(TitleSearchTest, OffersUsers) {
  EXPECT_EQ(nearest_users(dataset_, "annn", 3), (Names{"ann", "anna"}));
  EXPECT_EQ(nearest_users(dataset_, "bbo", 1), (Names{"bob"}));
  EXPECT_EQ(nearest_users(dataset_, "nobody here", 3), Names{});
}

}  // namespace
}  // namespace graphlora
