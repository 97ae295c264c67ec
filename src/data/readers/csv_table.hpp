// Records of a csv file as RFC 4180 defines them (quotes, doubled quotes, line breaks in quotes),
// and its columns by name.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/readers/line_reader.hpp"

namespace graphlora {

class CsvRecords {
 public:
  CsvRecords(const std::filesystem::path& path, char separator, bool progress)
      : lines_(path, progress), separator_(separator) {}

  /// The next record's fields, unquoted, valid until the next call; empty lines are passed over.
  /// False at the end. Throws BadLine (text behind a closing quote of the record's first line) and
  /// DataError: a quote still open after 100 lines or 64 KiB, or closed on another line with text
  /// behind it; a record longer than LineReader::kMaxLine.
  bool next(std::vector<std::string_view>& fields);
  const LineReader& lines() const { return lines_; }

 private:
  bool read_quoted(std::string_view line, std::vector<std::string_view>& fields);

  LineReader lines_;
  char separator_;
  // A record with quotes: its unquoted fields one behind the other, and where each ends.
  std::string text_;
  std::vector<std::size_t> ends_;
};

class CsvTable {
 public:
  /// With `header` the first record names the columns, else they are called 1, 2, 3, … Throws
  /// DataError: a column named twice, more than 4,096 columns, no records.
  CsvTable(const std::filesystem::path& path, char separator, bool header, bool progress);

  /// Index of the first column that has one of these names, or -1; "_" and case don't count.
  int find(std::span<const std::string_view> names) const;
  int find(std::string_view name) const { return find(std::span(&name, 1)); }
  /// The same, but a missing column is a DataError that lists what there is and says `advice`.
  int require(std::span<const std::string_view> names, const std::string& advice) const;
  int require(std::string_view name, const std::string& advice) const {
    return require(std::span(&name, 1), advice);
  }

  /// The next row, valid until the next call; it has exactly as many fields as there are columns,
  /// or BadLine is thrown.
  bool next(std::vector<std::string_view>& row);
  const LineReader& lines() const { return records_.lines(); }  ///< for error messages

 private:
  CsvRecords records_;
  std::vector<std::string> names_;
  std::vector<std::string_view> pending_;  // the first row, where it is no header
};

}  // namespace graphlora
