// Access to a tokenizer.json, which may hold anything.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace graphlora {

/// Member `name`; JSON null where it is missing.
const nlohmann::json& optional_member(const nlohmann::json& object, const char* name);

/// A component (normalizer, pre_tokenizer, …) with its Sequences, however deep, laid out in order;
/// `list` is the member in which a Sequence keeps its parts. None for null. Throws DataError,
/// prefixed by `where`, for more than 256.
std::vector<const nlohmann::json*> flatten(const nlohmann::json& component, const char* list,
                                           const std::string& where);

/// Member `name`, which must be a string of one character. Throws DataError, prefixed by `where`.
std::string read_character(const nlohmann::json& object, const char* name,
                           const std::string& where);

/// A string of the file for a message: in quotes, on one line, cut where it is long.
std::string shown(std::string_view text);

}  // namespace graphlora
