// Malformed lines of the source files: counted, the first few kept to be shown, and the end of the
// reading when there are more than the user allows.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace graphlora {

/// One line (row, record) that holds nonsense, while the next can be read all the same. The message
/// starts FILE:LINE:.
class BadLine : public DataError {
 public:
  BadLine(std::string file, std::int64_t line, std::string text)
      : DataError("{}:{}: {}", file, line, text),
        file_(std::move(file)),
        line_(line),
        text_(std::move(text)) {}

  /// The same, `lines` lines further down.
  BadLine moved_by(std::int64_t lines) const { return {file_, line_ + lines, text_}; }

 private:
  std::string file_;
  std::int64_t line_;
  std::string text_;
};

class BadLines {
 public:
  static constexpr std::size_t kExamples = 5;

  /// At most `limit` lines of all files together are passed over (--max-bad-lines); none without.
  BadLines() = default;
  explicit BadLines(std::int64_t limit) : limit_(limit) {}

  /// The loop of a reader: calls `read_row` until it returns false. A BadLine that it throws is
  /// counted and the loop goes on, unless there are more than the limit: then a DataError that
  /// names the line. `read_row` must not have kept a part of such a row.
  ///
  ///     bad_lines.each([&] {
  ///       if (!lines.next(line)) return false;
  ///       raw.add(…);
  ///       return true;
  ///     });
  template <class ReadRow>
  void each(ReadRow read_row) {
    while (true) {
      try {
        while (read_row()) {
        }
        return;
      } catch (const BadLine& bad) {
        add(bad);
      }
    }
  }

  /// Counts one. Throws DataError past the limit.
  void add(const BadLine& bad);

  std::int64_t count() const { return count_; }
  std::int64_t limit() const { return limit_; }
  /// The first messages.
  const std::vector<std::string>& examples() const { return examples_; }

 private:
  std::int64_t limit_ = 0, count_ = 0;
  std::vector<std::string> examples_;
};

}  // namespace graphlora
