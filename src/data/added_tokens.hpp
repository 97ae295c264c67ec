// Added tokens of a tokenizer.json: cut out of the text before anything else sees it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace graphlora {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only where no word character stands beside it
  bool lstrip = false;       ///< takes the white space in front
  bool rstrip = false;       ///< takes the white space behind
};

/// Finds added tokens: leftmost, the longest of those that begin there.
class AddedTokenMatcher {
 public:
  struct Span {
    std::int32_t id;  ///< −1: text in between
    std::string_view text;
  };
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  /// Appends the spans of a text (well-formed UTF-8), in order, none empty.
  void split(std::string_view text, std::vector<Span>& spans) const;

 private:
  std::vector<AddedToken> tokens_;                     // longest first
  std::array<std::vector<std::uint32_t>, 256> first_;  // tokens by first byte, longest first
};

}  // namespace graphlora
