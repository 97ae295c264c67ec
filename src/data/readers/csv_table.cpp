#include "data/readers/csv_table.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "data/readers/fields.hpp"
#include "data/text.hpp"

namespace graphlora {
namespace {

// A quote that stays open longer is taken for one too many: what it swallows are good rows.
constexpr std::int64_t kMaxQuotedLines = 100;
constexpr std::size_t kMaxQuotedBytes = std::size_t{1} << 16;
constexpr std::size_t kMaxColumns = 4096, kShownColumns = 20;

/// Lower case without "_": userId, user_id and UserID are one name.
std::string normalized(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != '_') out += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
}

/// The first names, for a message.
std::string shown(const std::vector<std::string>& names) {
  const std::size_t n = std::min(names.size(), kShownColumns);
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + n, ", "));
  if (n < names.size()) text += fmt::format(" … and {} more", names.size() - n);
  return text;
}

}  // namespace

bool CsvRecords::next(std::vector<std::string_view>& fields) {
  fields.clear();
  std::string_view line;
  do {
    if (!lines_.next(line)) return false;
  } while (line.empty());
  if (line.find('"') != std::string_view::npos) return read_quoted(line, fields);
  split_fields(line, {&separator_, 1}, fields);
  return true;
}

bool CsvRecords::read_quoted(std::string_view line, std::vector<std::string_view>& fields) {
  const std::int64_t first_line = lines_.line();
  std::int64_t opened = first_line;  // line of the last quote opened that goes over several
  text_.clear();
  ends_.clear();
  std::size_t begin = 0, size = line.size(), at = 0;  // begin: of the field in text_
  std::size_t continued = 0;                          // bytes of a quote behind its first line
  bool quoted = false, closed = false;
  while (true) {
    if (at == line.size()) {
      if (!quoted) break;
      // A line break inside quotes belongs to the field.
      // An error here is not that of one bad line: what was swallowed may be many good rows.
      if (continued == 0) opened = lines_.line();
      const std::int64_t read = lines_.line() - opened + 1;
      if (read >= kMaxQuotedLines || continued > kMaxQuotedBytes || !lines_.next(line))
        throw DataError("{}:{}: a quote opened here is still open after {} line{}; is one missing?",
                        lines_.path().string(), opened, read, read == 1 ? "" : "s");
      continued += line.size() + 1;
      size += line.size() + 1;
      if (size > LineReader::kMaxLine)
        throw DataError("{}:{}: the record that begins here is longer than {} bytes",
                        lines_.path().string(), first_line, LineReader::kMaxLine);
      text_ += '\n';
      at = 0;
      continue;
    }
    const char c = line[at++];
    if (quoted) {
      if (c != '"') {
        text_ += c;
      } else if (at < line.size() && line[at] == '"') {
        text_ += '"';
        ++at;
      } else {
        quoted = false;
        closed = true;
      }
    } else if (c == separator_) {
      begin = text_.size();
      ends_.push_back(begin);
      closed = false;
    } else if (closed) {
      if (lines_.line() != first_line)
        throw DataError(
            "{}:{}: a quote opened here goes on over lines and text stands behind a closing quote "
            "on line {}; is one missing? A quote inside quotes is written twice",
            lines_.path().string(), opened, lines_.line());
      throw lines_.error(
          "column {}: text stands behind a closing quote; a quote inside quotes is "
          "written twice",
          ends_.size() + 1);
    } else if (c == '"' && text_.size() == begin) {
      quoted = true;
      continued = 0;
    } else {
      text_ += c;
    }
  }
  ends_.push_back(text_.size());
  begin = 0;
  for (const std::size_t end : ends_) {
    fields.push_back(std::string_view(text_).substr(begin, end - begin));
    begin = end;
  }
  return true;
}

CsvTable::CsvTable(const std::filesystem::path& path, char separator, bool header, bool progress)
    : records_(path, separator, progress) {
  std::vector<std::string_view> first;
  if (!records_.next(first)) throw DataError("{}: holds no records", path.string());
  if (first.size() > kMaxColumns)
    throw DataError("{}:{}: has {} columns, more than {}; check the separator", path.string(),
                    lines().line(), first.size(), kMaxColumns);
  if (!header) {
    for (std::size_t i = 1; i <= first.size(); ++i) names_.push_back(std::to_string(i));
    pending_ = std::move(first);
    return;
  }
  for (const std::string_view text : first) {
    std::string name = clean_title(text);
    if (std::find(names_.begin(), names_.end(), name) != names_.end())
      throw lines().error("the header names the column '{}' twice", name);
    names_.push_back(std::move(name));
  }
}

int CsvTable::find(std::span<const std::string_view> names) const {
  // The exact name wins over one that is only similar.
  for (const std::string_view name : names) {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found != names_.end()) return static_cast<int>(found - names_.begin());
  }
  for (const std::string_view name : names)
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (normalized(names_[i]) == normalized(name)) return static_cast<int>(i);
  return -1;
}

int CsvTable::require(std::span<const std::string_view> names, const std::string& advice) const {
  const int found = find(names);
  if (found >= 0) return found;
  throw DataError("{}:1: has no column '{}', only {}; {}", lines().path().string(), names.front(),
                  shown(names_), advice);
}

bool CsvTable::next(std::vector<std::string_view>& row) {
  if (!pending_.empty()) {
    row = std::move(pending_);
    pending_.clear();
    return true;
  }
  if (!records_.next(row)) return false;
  if (row.size() != names_.size())
    throw lines().error("has {} columns, expected {}{}", row.size(), names_.size(),
                        row.size() > names_.size() ? "; text with the separator needs quotes" : "");
  return true;
}

}  // namespace graphlora
