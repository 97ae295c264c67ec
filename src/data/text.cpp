#include "data/text.hpp"

#include <unicode/unistr.h>

#include "data/unicode.hpp"

namespace graphlora {

bool is_utf8(std::string_view bytes) { return find_invalid_utf8(bytes) == std::string_view::npos; }

std::string latin1_to_utf8(std::string_view bytes) {
  icu::UnicodeString text;
  // Latin-1 is the first 256 code points, so bytes widen to UTF-16 units as they are.
  for (const char c : bytes) text.append(static_cast<char16_t>(static_cast<unsigned char>(c)));
  std::string out;
  return text.toUTF8String(out);
}

std::string clean_title(std::string_view bytes) {
  const std::string text = is_utf8(bytes) ? std::string(bytes) : latin1_to_utf8(bytes);
  const auto is_control = [](char32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); };
  std::string out;
  bool space = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    const char32_t c = next_code_point(text, i);
    if (is_white_space(c) || is_control(c)) {
      space = true;
      continue;
    }
    if (space && !out.empty()) out += ' ';
    space = false;
    out.append(text, begin, i - begin);
  }
  return out;
}

}  // namespace graphlora
