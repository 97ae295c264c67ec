#include "data/readers/csv_table.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "data/readers/fields.hpp"
#include "data/text.hpp"

namespace graphlora {
namespace {

/// Lower case without "_": userId, user_id and UserID are one name.
std::string normalized(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != '_') out += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
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
  text_.clear();
  ends_.clear();
  std::size_t begin = 0, size = 0, at = 0;  // begin: of the field in text_
  bool quoted = false, closed = false;
  while (true) {
    if (at == line.size()) {
      if (!quoted) break;
      // A line break inside quotes belongs to the field.
      size += line.size() + 1;
      if (size > LineReader::kMaxLine || !lines_.next(line))
        // What was swallowed may be many good rows: not one bad line.
        throw DataError("{}:{}: a quote is opened and never closed", lines_.path().string(),
                        first_line);
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
      throw lines_.error(
          "column {}: text stands behind a closing quote; a quote inside quotes is "
          "written twice",
          ends_.size() + 1);
    } else if (c == '"' && text_.size() == begin) {
      quoted = true;
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
                  fmt::join(names_, ", "), advice);
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
