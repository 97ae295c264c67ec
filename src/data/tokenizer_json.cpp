#include "data/tokenizer_json.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "data/unicode.hpp"

namespace graphlora {

const nlohmann::json& optional_member(const nlohmann::json& object, const char* name) {
  static const nlohmann::json kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

std::vector<const nlohmann::json*> flatten(const nlohmann::json& component, const char* list,
                                           const std::string& where) {
  constexpr std::size_t kMaxParts = 256;
  std::vector<const nlohmann::json*> result;
  // A stack of its own: a hostile file may nest deeper than the program's.
  std::vector<const nlohmann::json*> open;
  if (!component.is_null()) open.push_back(&component);
  while (!open.empty()) {
    const nlohmann::json& part = *open.back();
    open.pop_back();
    if (part.at("type") != "Sequence") {
      if (result.size() == kMaxParts) {
        throw DataError("{}: \"{}\" holds more than {} parts", where, list, kMaxParts);
      }
      result.push_back(&part);
      continue;
    }
    const auto first = static_cast<std::ptrdiff_t>(open.size());
    for (const nlohmann::json& child : part.at(list)) open.push_back(&child);
    std::reverse(open.begin() + first, open.end());
  }
  return result;
}

std::string read_character(const nlohmann::json& object, const char* name,
                           const std::string& where) {
  std::string character = object.at(name);
  std::size_t end = 0;
  if (!character.empty()) next_code_point(character, end);
  if (character.empty() || end != character.size()) {
    throw DataError("{}: \"{}\" must be one character, not {}", where, name, shown(character));
  }
  return character;
}

std::string shown(std::string_view text) {
  constexpr std::size_t kMax = 80;
  const auto quoted = nlohmann::json(text.substr(0, kMax))
                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return text.size() > kMax ? quoted + "…" : quoted;
}

}  // namespace graphlora
