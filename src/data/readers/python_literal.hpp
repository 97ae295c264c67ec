// Python's way of writing a dictionary, as the metadata files of 2014 have it, one a line.
#pragma once
#include <string>
#include <string_view>

namespace graphlora {

/// Whether a line is a dictionary with Python's strings ({'a': …} or {u'a': …}).
bool is_python_literal(std::string_view line);

/// Rewrites a Python literal as JSON text: strings of either quote, with u and every escape but
/// \N{…}; True, False, None; tuples as arrays; numbers as they are. Nothing is evaluated. Bytes
/// that Python 2 wrote as \xc3\xa9 become the UTF-8 that they are, or else Latin-1. Only tokens are
/// checked: whether they fit together is for the JSON parser to say. Throws std::invalid_argument
/// that says what is wrong.
void python_literal_to_json(std::string_view literal, std::string& json);

}  // namespace graphlora
