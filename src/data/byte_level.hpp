// The alphabet of byte-level BPE: every byte has a printable character (GPT-2's bytes_to_unicode).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace graphlora {

/// The character that stands for a byte, as UTF-8.
std::string byte_to_character(std::uint8_t byte);

/// The bytes that a token's characters (well-formed UTF-8) stand for; none if one stands for no
/// byte.
std::optional<std::string> characters_to_bytes(std::string_view token);

}  // namespace graphlora
