// A text file, plain or gzip, line by line, with a bound on the length of a line and a progress
// bar.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.hpp"
#include "data/readers/bad_lines.hpp"
#include "data/readers/source_file.hpp"

namespace graphlora {

class LineReader {
 public:
  /// Longest line, and longest csv record, in bytes.
  static constexpr std::size_t kMaxLine = std::size_t{1} << 22;
  /// Bytes behind a line that may be read, whatever they hold.
  static constexpr std::size_t kPadding = 64;

  /// Throws DataError: missing, unreadable, no regular file, empty.
  explicit LineReader(const std::filesystem::path& path, bool progress = true);

  /// The next line without its end (LF or CRLF) and, in the first line, without a byte-order mark.
  /// The view holds until the next call. False at the end of the file. Throws BadLine (line too
  /// long, NUL byte; the next call goes on behind it) and DataError (read error, damaged gzip).
  bool next(std::string_view& line);

  std::int64_t line() const { return line_; }  ///< number of the line last read, from 1
  const std::filesystem::path& path() const { return path_; }
  /// {"file","bytes","sha256"}; only once next() has returned false.
  nlohmann::json describe() const { return source_.describe(); }

  /// BadLine that starts FILE:LINE: with the line last read.
  template <class... Args>
  BadLine error(fmt::format_string<Args...> text, Args&&... args) const {
    return BadLine("{}:{}: {}", path_.string(), line_,
                   fmt::format(text, std::forward<Args>(args)...));
  }

 private:
  bool fill();
  /// Passes over the rest of a line that is longer than the buffer.
  void skip_rest();

  std::filesystem::path path_;
  SourceFile source_;
  std::string_view block_;  // not yet in the buffer
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;  // unread bytes in the buffer
  std::int64_t line_ = 0;
  Progress progress_;
};

}  // namespace graphlora
