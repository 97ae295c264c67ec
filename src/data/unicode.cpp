#include "data/unicode.hpp"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <span>

#include "core/error.hpp"
#include "data/unicode_additions.hpp"

namespace graphlora {
namespace {

/// Whether one of the ranges (in order) holds `c` in a category that begins with `category`.
bool holds(std::span<const NewCodePoints> ranges, std::string_view category, char32_t c) {
  if (c < ranges.front().first) return false;
  const auto range = std::partition_point(ranges.begin(), ranges.end(),
                                          [c](const NewCodePoints& r) { return r.last < c; });
  return range != ranges.end() && range->first <= c &&
         std::string_view(range->category).starts_with(category);
}

/// visit(begin, end, whether it is valid) for each character or ill-formed sequence, until one call
/// returns false.
template <class Visit>
void for_each_piece(std::string_view text, const Visit& visit) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto size = static_cast<std::int64_t>(text.size());
  for (std::int64_t i = 0; i < size;) {
    const std::int64_t begin = i;
    UChar32 c;
    U8_NEXT(bytes, i, size, c);
    if (!visit(static_cast<std::size_t>(begin), static_cast<std::size_t>(i), c >= 0)) return;
  }
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
  std::size_t found = std::string_view::npos;
  for_each_piece(text, [&](std::size_t begin, std::size_t, bool valid) {
    if (!valid) found = begin;
    return valid;
  });
  return found;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  for_each_piece(text, [&](std::size_t begin, std::size_t end, bool valid) {
    result += valid ? text.substr(begin, end - begin) : "\xEF\xBF\xBD";
    return true;
  });
  return result;
}

char32_t next_code_point(std::string_view text, std::size_t& offset) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  UChar32 c;
  U8_NEXT_UNSAFE(bytes, offset, c);
  return static_cast<char32_t>(c);
}

bool is_white_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

bool is_numeric(char32_t c) {
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0 ||
         holds(kNewCodePoints, "N", c) || holds(kNewestNumbers, "N", c);
}

bool is_word(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  return (U_GET_GC_MASK(code) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(code, UCHAR_ALPHABETIC) ||
         u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL) || holds(kNewCodePoints, "L", c) ||
         holds(kNewCodePoints, "M", c) || holds(kNewCodePoints, "Nd", c);
}

namespace {

char32_t last_code_point(std::string_view text, std::size_t& offset) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  UChar32 c;
  U8_PREV_UNSAFE(bytes, offset, c);
  return static_cast<char32_t>(c);
}

}  // namespace

bool ends_with_word(std::string_view text) {
  std::size_t offset = text.size();
  return !text.empty() && is_word(last_code_point(text, offset));
}

bool starts_with_word(std::string_view text) {
  std::size_t offset = 0;
  return !text.empty() && is_word(next_code_point(text, offset));
}

std::size_t trailing_white_space(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0) {
    std::size_t offset = begin;
    if (!is_white_space(last_code_point(text, offset))) {
      break;
    }
    begin = offset;
  }
  return text.size() - begin;
}

std::size_t leading_white_space(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size()) {
    std::size_t offset = end;
    if (!is_white_space(next_code_point(text, offset))) {
      break;
    }
    end = offset;
  }
  return end;
}

namespace {

[[noreturn]] void fail(UErrorCode status) {
  throw DataError("Unicode normalization failed: {} (is ICU's data installed?)",
                  u_errorName(status));
}

/// The normalizer inside HF `tokenizers` knows Unicode 9: later characters stay as they are.
class Unicode9Normalizer {
 public:
  explicit Unicode9Normalizer(NormalForm form) : normalizer_(instance(form), known_) {}
  std::string operator()(std::string_view text) const {
    std::string result;
    UErrorCode status = U_ZERO_ERROR;
    icu::StringByteSink<std::string> sink(&result);
    normalizer_.normalizeUTF8(0,
                              icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())),
                              sink, nullptr, status);
    if (U_FAILURE(status)) fail(status);
    return result;
  }

 private:
  static icu::UnicodeSet known() {
    UErrorCode status = U_ZERO_ERROR;
    icu::UnicodeSet set(icu::UnicodeString::fromUTF8("[:age=9.0:]"), status);
    if (U_FAILURE(status)) fail(status);
    set.freeze();
    return set;
  }
  static const icu::Normalizer2& instance(NormalForm form) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* normalizer = nullptr;
    switch (form) {
      case NormalForm::nfc:
        normalizer = icu::Normalizer2::getNFCInstance(status);
        break;
      case NormalForm::nfd:
        normalizer = icu::Normalizer2::getNFDInstance(status);
        break;
      case NormalForm::nfkc:
        normalizer = icu::Normalizer2::getNFKCInstance(status);
        break;
      case NormalForm::nfkd:
        normalizer = icu::Normalizer2::getNFKDInstance(status);
        break;
    }
    if (U_FAILURE(status)) fail(status);
    return *normalizer;
  }

  const icu::UnicodeSet known_ = known();
  icu::FilteredNormalizer2 normalizer_;
};

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; })) {
    return std::string(text);
  }
  static const Unicode9Normalizer normalizers[] = {
      Unicode9Normalizer(NormalForm::nfc), Unicode9Normalizer(NormalForm::nfd),
      Unicode9Normalizer(NormalForm::nfkc), Unicode9Normalizer(NormalForm::nfkd)};
  return normalizers[static_cast<int>(form)](text);
}

}  // namespace graphlora
