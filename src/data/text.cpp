#include "data/text.hpp"

#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <limits>

namespace graphlora {

bool is_utf8(std::string_view bytes) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const auto size = static_cast<std::int64_t>(bytes.size());
  for (std::int64_t i = 0; i < size;) {
    UChar32 c;
    U8_NEXT(data, i, size, c);
    if (c < 0) return false;
  }
  return true;
}

std::string latin1_to_utf8(std::string_view bytes) {
  icu::UnicodeString text;
  // Latin-1 is the first 256 code points, so bytes widen to UTF-16 units as they are.
  for (const char c : bytes) text.append(static_cast<char16_t>(static_cast<unsigned char>(c)));
  std::string out;
  return text.toUTF8String(out);
}

std::string clean_title(std::string_view bytes) {
  const std::string text = is_utf8(bytes) ? std::string(bytes) : latin1_to_utf8(bytes);
  const auto* data = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto size = static_cast<std::int64_t>(text.size());
  std::string out;
  bool space = false;
  for (std::int64_t i = 0; i < size;) {
    const std::int64_t begin = i;
    UChar32 c;
    U8_NEXT(data, i, size, c);
    if (u_isUWhiteSpace(c) || u_iscntrl(c)) {
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
