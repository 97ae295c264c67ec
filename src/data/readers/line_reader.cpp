#include "data/readers/line_reader.hpp"

namespace graphlora {

bool Lines::next(std::string_view& line) {
  if (rest_.empty()) return false;
  ++line_;
  const std::size_t newline = rest_.find('\n');
  line = rest_.substr(0, newline);
  rest_.remove_prefix(newline == std::string_view::npos ? rest_.size() : newline + 1);
  if (line.size() > LineBlocks::kMaxLine)
    throw error("the line is longer than {} bytes: is this a text file of that format?",
                LineBlocks::kMaxLine);
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.find('\0') != std::string_view::npos)
    throw error("holds a NUL byte: is this a text file in UTF-8 or Latin-1?");
  return true;
}

bool LineReader::next(std::string_view& line) {
  while (!Lines::next(line)) {
    if (!blocks_.next(block_)) return false;
    open(block_.text());
  }
  return true;
}

}  // namespace graphlora
