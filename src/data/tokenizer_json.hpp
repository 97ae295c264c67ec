// Access to a tokenizer.json, which may hold anything.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace graphlora {

/// Member `name`; JSON null where it is missing.
const nlohmann::json& optional_member(const nlohmann::json& object, const char* name);

/// A component (normalizer, pre_tokenizer, …) with its Sequences, however deep, laid out in order;
/// `list` is the member in which a Sequence keeps its parts. None for null.
std::vector<const nlohmann::json*> flatten(const nlohmann::json& component, const char* list);

}  // namespace graphlora
