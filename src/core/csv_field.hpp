// A field of a CSV file (RFC 4180).
#pragma once
#include <string>
#include <string_view>

namespace graphlora {

/// The text, in double quotes where it holds a comma, a quote or a line break.
inline std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\n\r") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace graphlora
