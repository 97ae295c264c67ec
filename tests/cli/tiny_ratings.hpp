// Ratings and templates that the tests of whole commands make their tiny runs from.
#pragma once
#include <fmt/format.h>

#include <string>

namespace graphlora::test {

/// A csv with titles: `each` ratings of every user, spread over the items and over 1 to 5.
inline std::string tiny_ratings(int users, int each, int items) {
  std::string ratings = "user,item,time,rating,title\n";
  for (int user = 0; user < users; ++user) {
    for (int i = 0; i < each; ++i) {
      const int item = (user * 3 + i * 2) % items;
      ratings += fmt::format("u{},i{},{},{},Title {}\n", user, item, 1000 + 10 * i + user,
                             1 + (user + item * 2) % 5, item);
    }
  }
  return ratings;
}

/// One template whose tokens a tiny tokenizer has.
inline constexpr const char* kTinyTemplates =
    "[template]\nL {history} {user} T {title} {item} ?\n[empty history]\n{user} T {title} {item} "
    "?\n";

}  // namespace graphlora::test
