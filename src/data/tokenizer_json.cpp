#include "data/tokenizer_json.hpp"

#include <algorithm>

namespace graphlora {

const nlohmann::json& optional_member(const nlohmann::json& object, const char* name) {
  static const nlohmann::json kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

std::vector<const nlohmann::json*> flatten(const nlohmann::json& component, const char* list) {
  std::vector<const nlohmann::json*> result;
  // A stack of its own: a hostile file may nest deeper than the program's.
  std::vector<const nlohmann::json*> open;
  if (!component.is_null()) open.push_back(&component);
  while (!open.empty()) {
    const nlohmann::json& part = *open.back();
    open.pop_back();
    if (part.at("type") != "Sequence") {
      result.push_back(&part);
      continue;
    }
    const auto first = static_cast<std::ptrdiff_t>(open.size());
    for (const nlohmann::json& child : part.at(list)) open.push_back(&child);
    std::reverse(open.begin() + first, open.end());
  }
  return result;
}

}  // namespace graphlora
