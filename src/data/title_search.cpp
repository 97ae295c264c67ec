#include "data/title_search.hpp"

#include <unicode/unistr.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "core/edit_distance.hpp"
#include "data/text.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

// Text of hostile length would cost its product with every title's.
constexpr std::size_t kMostCharacters = 120;
constexpr std::int64_t kMostUsers = 1'000'000;
constexpr std::array<std::u32string_view, 9> kArticles{U"the", U"a",   U"an",  U"la", U"le",
                                                       U"les", U"der", U"die", U"das"};

/// In a normal form, case folded, blanks cleaned; empty for what is not UTF-8.
std::u32string folded(std::string_view text, NormalForm form) {
  if (!is_utf8(text)) return {};
  const auto unicode = icu::UnicodeString::fromUTF8(normalize(clean_title(text), form)).foldCase();
  std::u32string result;
  for (std::int32_t i = 0; i < unicode.length(); i = unicode.moveIndex32(i, 1))
    result.push_back(static_cast<char32_t>(unicode.char32At(i)));
  return result;
}

/// The same without accents.
std::u32string plain(std::string_view text) {
  std::u32string letters = folded(text, NormalForm::nfd);
  std::erase_if(letters, [](char32_t c) { return c >= 0x300 && c < 0x370; });
  return letters;
}

/// Without what stands in parentheses at the end.
std::u32string_view without_remark(std::u32string_view title) {
  const std::size_t open = title.rfind(U" (");
  return !title.empty() && title.back() == U')' && open != std::u32string_view::npos
             ? title.substr(0, open)
             : title;
}

/// "matrix, the" as "the matrix".
std::u32string with_article_first(std::u32string_view title) {
  const std::size_t comma = title.rfind(U", ");
  if (comma != std::u32string_view::npos) {
    const std::u32string_view last = title.substr(comma + 2);
    if (std::find(kArticles.begin(), kArticles.end(), last) != kArticles.end())
      return std::u32string(last) + U" " + std::u32string(title.substr(0, comma));
  }
  return std::u32string(title);
}

/// The few names of least distance; of equal ones the first in order of the alphabet.
class Nearest {
 public:
  Nearest(std::size_t count, std::size_t most) : count_(count), most_(most) {}
  void offer(std::size_t distance, std::string_view name) {
    if (distance > most_) return;
    std::pair<std::size_t, std::string> entry(distance, name);
    const auto at = std::lower_bound(best_.begin(), best_.end(), entry);
    if (at != best_.end() && *at == entry) return;
    best_.insert(at, std::move(entry));
    if (best_.size() > count_) best_.pop_back();
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [distance, name] : best_) names.push_back(name);
    return names;
  }

 private:
  std::size_t count_, most_;
  std::vector<std::pair<std::size_t, std::string>> best_;  // ascending
};

std::size_t most_distance(std::size_t length) { return std::max<std::size_t>(2, length * 2 / 5); }

}  // namespace

std::vector<std::int64_t> items_titled(const Dataset& dataset, std::string_view title) {
  std::vector<std::int64_t> found;
  const std::u32string wanted = folded(title, NormalForm::nfc);
  if (wanted.empty()) return found;
  for (std::int64_t item = 0; item < dataset.items(); ++item)
    if (folded(dataset.title(item), NormalForm::nfc) == wanted) found.push_back(item);
  return found;
}

std::vector<std::string> nearest_titles(const Dataset& dataset, std::string_view title,
                                        std::size_t count) {
  const std::u32string wanted = with_article_first(plain(title).substr(0, kMostCharacters));
  const bool long_enough = wanted.size() >= 4;
  const std::size_t most = most_distance(wanted.size());
  Nearest nearest(count, most);
  if (wanted.empty()) return {};
  for (std::int64_t item = 0; item < dataset.items(); ++item) {
    const std::u32string whole = plain(dataset.title(item)).substr(0, kMostCharacters);
    const std::u32string bare = with_article_first(without_remark(whole));
    std::size_t distance = std::numeric_limits<std::size_t>::max();
    const auto compare = [&](std::u32string_view text, std::size_t penalty) {
      // Lengths that differ by more need more edits than are of use.
      if (std::max(text.size(), wanted.size()) - std::min(text.size(), wanted.size()) > most)
        return;
      distance = std::min(distance, edit_distance(wanted, text) + penalty);
    };
    compare(whole, 0);
    compare(bare, 1);
    if (long_enough && bare.find(wanted) != std::u32string::npos)
      distance = std::min<std::size_t>(distance, 2);
    nearest.offer(distance, dataset.title(item));
  }
  return nearest.names();
}

std::vector<std::string> nearest_users(const Dataset& dataset, std::string_view id,
                                       std::size_t count) {
  const std::string_view wanted = id.substr(0, kMostCharacters);
  Nearest nearest(count, most_distance(wanted.size()));
  for (std::int64_t user = 0; user < std::min(dataset.users(), kMostUsers); ++user) {
    const std::string_view name = dataset.user_id(user);
    nearest.offer(edit_distance(wanted, name.substr(0, kMostCharacters)), name);
  }
  return nearest.names();
}

}  // namespace graphlora
