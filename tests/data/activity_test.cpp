// Users and items of few rows: against counting in maps, and the years' first and last seconds.
#include "data/activity.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "data/year_range.hpp"

namespace graphlora {
namespace {

using Pairs = std::vector<std::pair<std::int32_t, std::int32_t>>;

Pairs kept(const Pairs& pairs, std::int64_t minimum, const std::string& rule) {
  std::vector<std::int32_t> user, item;
  for (const auto& [u, i] : pairs) user.push_back(u), item.push_back(i);
  const std::vector<std::uint8_t> keep = active_rows({minimum, rule}, user, item, 100, 100);
  Pairs out;
  for (std::size_t row = 0; row < pairs.size(); ++row)
    if (keep[row]) out.push_back(pairs[row]);
  return out;
}

/// One round by the definition.
Pairs round_of(const Pairs& pairs, std::int64_t minimum) {
  std::map<std::int32_t, std::int64_t> users, items;
  for (const auto& [u, i] : pairs) ++users[u], ++items[i];
  Pairs out;
  for (const auto& [u, i] : pairs)
    if (users[u] >= minimum && items[i] >= minimum) out.emplace_back(u, i);
  return out;
}

/// The k-core by its other definition: take away one user or item at a time until none is left
/// with too few.
Pairs core_of(Pairs pairs, std::int64_t minimum) {
  while (true) {
    std::map<std::int32_t, std::int64_t> users, items;
    for (const auto& [u, i] : pairs) ++users[u], ++items[i];
    const auto few = [&](const auto& count) { return count.second < minimum; };
    if (const auto found = std::find_if(users.begin(), users.end(), few); found != users.end())
      std::erase_if(pairs, [&](const auto& pair) { return pair.first == found->first; });
    else if (const auto other = std::find_if(items.begin(), items.end(), few); other != items.end())
      std::erase_if(pairs, [&](const auto& pair) { return pair.second == other->first; });
    else
      return pairs;
  }
}

TEST(ActiveRows, EqualsTheDefinitionOnRandomPairs) {
  int dropped_more = 0, survived = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto users = static_cast<std::int32_t>(1 + random() % 30),
               items = static_cast<std::int32_t>(1 + random() % 30);
    const std::int64_t minimum = random() % 6;
    Pairs pairs;
    for (std::size_t n = random() % 200; n > 0; --n)
      pairs.emplace_back(random() % users, std::min(random() % items, random() % items));
    const Pairs single = kept(pairs, minimum, "single"), core = kept(pairs, minimum, "k-core");
    EXPECT_EQ(single, round_of(pairs, minimum));
    EXPECT_EQ(core, core_of(pairs, minimum));
    dropped_more += core.size() < single.size();
    survived += !core.empty() && core.size() < pairs.size();
  }
  // The rules differ, and a core is not always empty.
  EXPECT_GT(dropped_more, 20);
  EXPECT_GT(survived, 20);
}

TEST(ActiveRows, AChainFallsApartOnlyUnderKCore) {
  // u0-i0-u1-i1-u2: only the ends have one row.
  const Pairs chain{{0, 0}, {1, 0}, {1, 1}, {2, 1}};
  EXPECT_EQ(kept(chain, 2, "single"), (Pairs{{1, 0}, {1, 1}}));
  EXPECT_EQ(kept(chain, 2, "k-core"), Pairs{});
  EXPECT_EQ(kept(chain, 1, "k-core"), chain);
}

TEST(YearRange, WholeYearsInUtcBySecondsAndMilliseconds) {
  constexpr std::int64_t k2017 = 1483228800, k2018 = 1514764800;  // date -u -d 2017-01-01 +%s
  const YearRange only(2017, 2017);
  for (const auto& [time, inside] : std::vector<std::pair<std::int64_t, bool>>{
           {k2017 - 1, false}, {k2017, true}, {k2018 - 1, true}, {k2018, false}}) {
    EXPECT_EQ(only.holds(time), inside) << time;
    EXPECT_EQ(only.holds(time * 1000), inside) << time;
    EXPECT_EQ(only.holds(time * 1000 + 999), inside) << time;
  }
  EXPECT_FALSE(only.all());
  EXPECT_TRUE(YearRange().all());
  EXPECT_TRUE(YearRange().holds(0));
  EXPECT_TRUE(YearRange().holds(253402300799999));
  EXPECT_FALSE(YearRange(1971, 9999).holds(0));
}

}  // namespace
}  // namespace graphlora
