// Text of source files: UTF-8 checks and the way from Latin-1 (ICU).
#pragma once
#include <string>
#include <string_view>

namespace graphlora {

/// Whether the bytes are well-formed UTF-8.
bool is_utf8(std::string_view bytes);

/// ISO-8859-1 to UTF-8; every byte string is valid Latin-1.
std::string latin1_to_utf8(std::string_view bytes);

/// A title fit for prompts and one-line output: UTF-8 (other bytes are taken as Latin-1), control
/// characters and runs of white space replaced by one space, none at the ends.
std::string clean_title(std::string_view bytes);

}  // namespace graphlora
