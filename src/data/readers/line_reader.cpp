#include "data/readers/line_reader.hpp"

#include <algorithm>
#include <cstring>

namespace graphlora {

LineReader::LineReader(const std::filesystem::path& path, bool progress)
    : path_(path),
      source_(path),
      buffer_(2 * kMaxLine + kPadding),
      progress_("reading " + path.filename().string(), source_.size(), "bytes", progress) {}

bool LineReader::fill() {
  std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  if (block_.empty()) {
    block_ = source_.next();
    progress_.update(source_.position());
    if (block_.empty()) return false;
  }
  const std::size_t taken = std::min(block_.size(), buffer_.size() - kPadding - end_);
  std::memcpy(buffer_.data() + end_, block_.data(), taken);
  block_.remove_prefix(taken);
  end_ += taken;
  return true;
}

void LineReader::skip_rest() {
  do {
    const auto* newline =
        static_cast<const char*>(std::memchr(buffer_.data() + begin_, '\n', end_ - begin_));
    if (newline) {
      begin_ = static_cast<std::size_t>(newline - buffer_.data()) + 1;
      return;
    }
    begin_ = end_;
  } while (fill());
}

bool LineReader::next(std::string_view& line) {
  std::size_t searched = 0;
  const char* newline = nullptr;
  while (true) {
    newline = static_cast<const char*>(
        std::memchr(buffer_.data() + begin_ + searched, '\n', end_ - begin_ - searched));
    if (newline) break;
    searched = end_ - begin_;
    if (searched > kMaxLine || !fill()) break;
  }
  const std::size_t length =
      newline ? static_cast<std::size_t>(newline - buffer_.data()) - begin_ : end_ - begin_;
  if (!newline && length == 0) {
    progress_.finish();
    return false;
  }
  ++line_;
  if (length > kMaxLine) {
    skip_rest();
    throw error("the line is longer than {} bytes: is this a text file of that format?", kMaxLine);
  }
  line = {buffer_.data() + begin_, length};
  begin_ += length + (newline ? 1 : 0);
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  if (line.find('\0') != std::string_view::npos)
    throw error("holds a NUL byte: is this a text file in UTF-8 or Latin-1?");
  return true;
}

}  // namespace graphlora
