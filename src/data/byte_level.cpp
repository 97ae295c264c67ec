#include "data/byte_level.hpp"

#include <array>

#include "data/unicode.hpp"

namespace graphlora {
namespace {

bool is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

// Printable bytes stand for themselves, the others for U+0100 and on, in order.
constexpr int kCharacters = 256 + 68;
struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<std::int16_t, kCharacters> byte{};
  Alphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      character[b] = is_printable(b) ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<std::int16_t>(b);
    }
  }
};
const Alphabet kAlphabet;

}  // namespace

std::string byte_to_character(std::uint8_t byte) {
  const char32_t c = kAlphabet.character[byte];
  if (c < 0x80) {
    return {static_cast<char>(c)};
  }
  return {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
}

std::optional<std::string> characters_to_bytes(std::string_view token) {
  std::string bytes;
  for (std::size_t offset = 0; offset < token.size();) {
    const char32_t c = next_code_point(token, offset);
    if (c >= kCharacters || kAlphabet.byte[c] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kAlphabet.byte[c]));
  }
  return bytes;
}

}  // namespace graphlora
