// The lines of a text file one by one, with the place of each for messages.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "data/readers/bad_lines.hpp"
#include "data/readers/line_blocks.hpp"

namespace graphlora {

/// The lines of one block.
class Lines {
 public:
  explicit Lines(const std::filesystem::path& path) : path_(path) {}

  /// Goes on with the lines of `text`; the view must hold.
  void open(std::string_view text) { rest_ = text; }

  /// The next line without its end (LF or CRLF). False at the end of the text. Throws BadLine (line
  /// too long, NUL byte; the next call goes on behind it).
  bool next(std::string_view& line);

  std::int64_t line() const { return line_; }  ///< number of the line last read, from 1
  void restart() { line_ = 0; }                ///< counts from 1 again
  const std::filesystem::path& path() const { return path_; }

  /// BadLine at the line last read.
  template <class... Args>
  BadLine error(fmt::format_string<Args...> text, Args&&... args) const {
    return {path_.string(), line_, fmt::format(text, std::forward<Args>(args)...)};
  }

 private:
  std::filesystem::path path_;
  std::string_view rest_;
  std::int64_t line_ = 0;
};

/// The lines of a file.
class LineReader : public Lines {
 public:
  static constexpr std::size_t kMaxLine = LineBlocks::kMaxLine, kPadding = LineBlocks::kPadding;

  /// Throws DataError: missing, unreadable, no regular file, empty.
  explicit LineReader(const std::filesystem::path& path, bool progress = true)
      : Lines(path), blocks_(path, progress) {}

  /// The next line, without the file's byte-order mark, as Lines::next; the view holds until the
  /// next call. False at the end of the file. Throws BadLine too, and DataError (read error,
  /// damaged gzip).
  bool next(std::string_view& line);

  /// {"file","bytes","sha256"}; only once next() has returned false.
  nlohmann::json describe() const { return blocks_.describe(); }

 private:
  LineBlocks blocks_;
  LineBlock block_;
};

}  // namespace graphlora
