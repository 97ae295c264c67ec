// Fields of a row, checked: every bad one is a BadLine.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/readers/line_reader.hpp"

namespace graphlora {

/// Latest time taken: the end of year 9999 in milliseconds.
inline constexpr std::int64_t kMaxTime = 253402300799999;

/// Cuts a line at every separator (one or more characters, no quotes).
void split_fields(std::string_view line, std::string_view separator,
                  std::vector<std::string_view>& fields);

/// An id without the blanks around it: 1 to 1024 bytes of UTF-8 without control characters. `what`:
/// "user" or "item".
std::string_view id_field(const Lines& at, const char* what, std::string_view text);
/// The same, and only digits (MovieLens).
std::string_view number_id_field(const Lines& at, const char* what, std::string_view text);

/// A finite number, at most 1e6 in size.
float rating_field(const Lines& at, std::string_view text);

/// 0, 1, true or false.
float label_field(const Lines& at, std::string_view text);

/// The times of one file: seconds or milliseconds since 1970 (0 to kMaxTime, decimals are cut), or
/// UTC dates "2005-04-02" with or without a time of day "23:53:47", given in seconds. A time in
/// another unit than the first one's is refused.
class TimeColumn {
 public:
  std::int64_t field(const Lines& at, std::string_view text);

  bool empty() const { return !milliseconds_; }  ///< no time has been read
  /// Whether both take and refuse the same times from here on.
  bool operator==(const TimeColumn&) const = default;

 private:
  std::optional<bool> milliseconds_;
};

/// A title from UTF-8 or, where it is not valid UTF-8, from Latin-1.
std::string title_field(std::string_view text);

}  // namespace graphlora
