// Any csv with named columns: ratings, labels or clicks.
#include "data/readers/csv_table.hpp"
#include "data/readers/fields.hpp"
#include "data/readers/reader.hpp"

namespace graphlora {
namespace {

constexpr const char* kNone = "none";

char separator_of(const std::string& text) {
  if (text == "tab" || text == "\\t") return '\t';
  if (text.size() != 1 || text == "\"" || text == "\n" || text == "\r")
    throw ConfigError("--csv.separator: must be one character or tab, got '{}'", text);
  return text.front();
}

/// Index of a column that may be absent while it has its default name; -1: not read.
int optional_column(const CsvTable& table, const std::string& name, const std::string& usual,
                    const char* option) {
  if (name == kNone) return -1;
  if (name == usual) return table.find(name);
  return table.require(name, fmt::format("choose another with {}, or none", option));
}

}  // namespace

RawRatings read_csv(const ReadConfig& config) {
  const CsvColumns& columns = config.csv;
  const CsvColumns usual;
  const char separator = separator_of(columns.separator);
  std::error_code ignored;
  if (std::filesystem::is_directory(config.input, ignored))
    throw DataError("{}: is a directory; with --format csv, --input names the file",
                    config.input.string());

  RawRatings raw = no_ratings(config);
  std::vector<std::string_view> row;
  {
    CsvTable table(config.input, separator, columns.header, config.progress);
    const int user = table.require(columns.user, "name the users' with --csv.user"),
              item = table.require(columns.item, "name the items' with --csv.item"),
              time = table.require(columns.time, "name the times' with --csv.time");
    int rating = optional_column(table, columns.rating, usual.rating, "--csv.rating");
    const int label = optional_column(table, columns.label, usual.label, "--csv.label");
    const int title = columns.titles.empty()
                          ? optional_column(table, columns.title, usual.title, "--csv.title")
                          : -1;
    if (label >= 0 && columns.label != usual.label) rating = -1;
    raw.kind = rating >= 0  ? RatingKind::rating
               : label >= 0 ? RatingKind::label
                            : RatingKind::click;
    const LineReader& at = table.lines();
    TimeColumn times;
    raw.bad_lines.each([&] {
      if (!table.next(row)) return false;
      const float value = rating >= 0  ? rating_field(at, row[rating])
                          : label >= 0 ? label_field(at, row[label])
                                       : 1.0F;
      const std::string_view item_id = id_field(at, "item", row[item]);
      raw.add(id_field(at, "user", row[user]), item_id, value, times.field(at, row[time]));
      if (title >= 0 && raw.lacks_title(item_id)) raw.set_title(item_id, title_field(row[title]));
      return true;
    });
    raw.input = at.path();
    raw.sources.push_back(at.describe());
  }
  if (columns.titles.empty()) return raw;
  CsvTable table(columns.titles, separator, columns.header, config.progress);
  const int item = table.require(columns.item, "the titles file needs it too (--csv.item)"),
            title = table.require(columns.title, "name the titles' with --csv.title");
  raw.bad_lines.each([&] {
    if (!table.next(row)) return false;
    const std::string_view item_id = id_field(table.lines(), "item", row[item]);
    if (raw.lacks_title(item_id)) raw.set_title(item_id, title_field(row[title]));
    return true;
  });
  raw.sources.push_back(table.lines().describe());
  return raw;
}

}  // namespace graphlora
