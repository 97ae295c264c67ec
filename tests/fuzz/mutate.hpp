// Damaged variants of a file's bytes: of any bytes, of JSON by its structure, of safetensors.
#pragma once
#include <random>
#include <string>

namespace graphlora::fuzz {

using Random = std::mt19937_64;

/// Bits flipped; bytes replaced, repeated, removed, moved; cut off; numbers of 4 and 8 bytes
/// replaced.
std::string mutate_bytes(const std::string& original, Random& random);
/// One to three changes of the parsed value (members replaced by odd values or by one another,
/// removed, added, wrapped), now and then of the text too.
std::string mutate_json(const std::string& text, Random& random);
/// The same of the header, its length, or the bytes.
std::string mutate_safetensors(const std::string& bytes, Random& random);

}  // namespace graphlora::fuzz
