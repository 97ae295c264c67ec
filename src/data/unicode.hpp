// Unicode properties and forms that tokenizers ask for (ICU behind them).
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace graphlora {

/// Offset of the first byte that is not part of well-formed UTF-8; npos if there is none.
std::size_t find_invalid_utf8(std::string_view text);

/// `bytes` with every ill-formed sequence replaced by U+FFFD (maximal subparts, as the WHATWG
/// decoder).
std::string replace_invalid_utf8(std::string_view bytes);

/// The code point at `offset` of well-formed UTF-8, and `offset` moved behind it.
char32_t next_code_point(std::string_view text, std::size_t& offset);

/// White_Space.
bool is_white_space(char32_t c);
/// General categories Nd, Nl and No.
bool is_numeric(char32_t c);
/// A regular expression's \w: Alphabetic, M, Nd, Pc, Join_Control.
bool is_word(char32_t c);

/// Whether the last (first) code point of well-formed UTF-8 is a word character; false for "".
bool ends_with_word(std::string_view text);
bool starts_with_word(std::string_view text);
/// Bytes of the white space at the end (start) of well-formed UTF-8.
std::size_t trailing_white_space(std::string_view text);
std::size_t leading_white_space(std::string_view text);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// Well-formed UTF-8 in a normal form of Unicode 9, as HF `tokenizers` has it.
std::string normalize(std::string_view text, NormalForm form);

}  // namespace graphlora
