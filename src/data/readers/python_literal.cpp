#include "data/readers/python_literal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "data/text.hpp"

namespace graphlora {
namespace {

constexpr std::string_view kBlank = " \t", kNumber = "+-.0123456789eE";

class Converter {
 public:
  Converter(std::string_view in, std::string& out) : in_(in), out_(out) {}

  void run() {
    out_.clear();
    while (at_ < in_.size()) {
      const char c = in_[at_];
      switch (c) {
        case ' ':
        case '\t':
          ++at_;
          break;
        case '{':
        case '[':
        case ':':
        case ',':
          out_ += c;
          ++at_;
          break;
        case '(':
          out_ += '[';
          ++at_;
          break;
        case '}':
        case ']':
        case ')':
          if (out_.ends_with(',')) out_.pop_back();  // (1,)
          out_ += c == '}' ? '}' : ']';
          ++at_;
          break;
        case '\'':
        case '"':
          string(false);
          break;
        default:
          if ((c == 'u' || c == 'U') && at_ + 1 < in_.size() &&
              (in_[at_ + 1] == '\'' || in_[at_ + 1] == '"')) {
            ++at_;
            string(true);
          } else if (kNumber.substr(0, 13).find(c) != std::string_view::npos) {
            number();
          } else {
            word();
          }
      }
    }
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw std::invalid_argument(fmt::format("{} (column {})", what, at_ + 1));
  }

  void word() {
    constexpr std::pair<std::string_view, std::string_view> kWords[] = {
        {"True", "true"}, {"False", "false"}, {"None", "null"}};
    for (const auto& [python, json] : kWords) {
      if (!in_.substr(at_).starts_with(python)) continue;
      out_ += json;
      at_ += python.size();
      return;
    }
    fail("neither a value nor a sign that a dictionary may hold");
  }

  void number() {
    const std::size_t end = std::min(in_.find_first_not_of(kNumber, at_), in_.size());
    out_ += in_.substr(at_, end - at_);
    at_ = end;
    if (at_ < in_.size() && (in_[at_] == 'L' || in_[at_] == 'l')) ++at_;  // Python 2's long
  }

  void string(bool unicode) {
    const char quote = in_[at_++];
    out_ += '"';
    while (true) {
      if (at_ == in_.size()) fail("a string is opened and never closed");
      const char c = in_[at_];
      if (c == quote) break;
      if (c == '\\')
        escape(unicode);
      else
        character(c), ++at_;
    }
    ++at_;
    out_ += '"';
  }

  /// A character of ASCII, or a byte of UTF-8.
  void character(char c) {
    if (c == '"' || c == '\\') {
      out_ += '\\';
      out_ += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      code_unit(static_cast<unsigned char>(c));
    } else {
      out_ += c;
    }
  }

  void code_unit(std::uint32_t value) {
    fmt::format_to(std::back_inserter(out_), "\\u{:04x}", value);
  }

  void code_point(std::uint32_t value) {
    if (value > 0x10ffff) fail("an escape is beyond Unicode");
    if (value < 0x80) {
      character(static_cast<char>(value));
    } else if (value < 0x10000) {
      code_unit(value);
    } else {
      code_unit(0xd800 + ((value - 0x10000) >> 10));
      code_unit(0xdc00 + ((value - 0x10000) & 0x3ff));
    }
  }

  /// `digits` digits from `begin` on; the position moves behind them.
  std::uint32_t digits(std::size_t begin, std::size_t count, int base) {
    const std::string_view text = in_.substr(std::min(begin, in_.size()), count);
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc{} || text.size() < count || end != text.data() + count)
      fail("an escape lacks digits");
    at_ = begin + count;
    return value;
  }

  void escape(bool unicode) {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    switch (c) {
      case 'x':
        hexadecimal(unicode);
        return;
      case 'u':
        code_point(digits(at_ + 2, 4, 16));
        return;
      case 'U':
        code_point(digits(at_ + 2, 8, 16));
        return;
      case 'N':
        fail("escapes by a character's name (\\N) are not read");
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      const std::size_t end = in_.find_first_not_of("01234567", at_ + 1);
      code_point(digits(at_ + 1, std::min<std::size_t>(3, std::min(end, in_.size()) - at_ - 1), 8));
      return;
    }
    constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
    const std::size_t known = kLetters.find(c);
    if (known == std::string_view::npos) {
      character('\\');  // as Python does: the backslash stays
      ++at_;
    } else {
      character(kMeanings[known]);
      at_ += 2;
    }
  }

  /// A run of \xHH. In a string without u they may be the bytes of UTF-8 text (Python 2).
  void hexadecimal(bool unicode) {
    bytes_.clear();
    do {
      bytes_ += static_cast<char>(digits(at_ + 2, 2, 16));
    } while (in_.substr(at_).starts_with("\\x"));
    if (!unicode && is_utf8(bytes_)) {
      for (const char byte : bytes_) character(byte);
    } else {
      for (const char byte : bytes_) code_point(static_cast<unsigned char>(byte));
    }
  }

  std::string_view in_;
  std::string& out_;
  std::string bytes_;
  std::size_t at_ = 0;
};

}  // namespace

bool is_python_literal(std::string_view line) {
  const std::size_t brace = line.find_first_not_of(kBlank);
  if (brace == std::string_view::npos || line[brace] != '{') return false;
  const std::size_t first = line.find_first_not_of(kBlank, brace + 1);
  if (first == std::string_view::npos) return false;
  const std::string_view rest = line.substr(first);
  return rest.starts_with('\'') || rest.starts_with("u'") || rest.starts_with("u\"");
}

void python_literal_to_json(std::string_view literal, std::string& json) {
  Converter(literal, json).run();
}

}  // namespace graphlora
