// MovieLens-100K and -1M: fields between separators, no header.
// https://files.grouplens.org/datasets/movielens/ml-100k-README.txt
// https://files.grouplens.org/datasets/movielens/ml-1m-README.txt
#include "data/readers/fields.hpp"
#include "data/readers/reader.hpp"

namespace graphlora {
namespace {

/// Rows of user, item, rating, time; `columns` describes one for the error message.
RawRatings read_ratings(const std::filesystem::path& path, const ReadConfig& config,
                        std::string_view separator, const char* columns) {
  RawRatings raw = no_ratings(config);
  LineReader ratings(path, config.progress);
  TimeColumn times;
  std::string_view line;
  std::vector<std::string_view> fields;
  raw.bad_lines.each([&] {
    if (!ratings.next(line)) return false;
    if (line.empty()) return true;
    split_fields(line, separator, fields);
    if (fields.size() != 4)
      throw ratings.error("has {} columns, expected 4 ({}); check --format", fields.size(),
                          columns);
    raw.add(number_id_field(ratings, "user", fields[0]),
            number_id_field(ratings, "item", fields[1]), rating_field(ratings, fields[2]),
            times.field(ratings, fields[3]));
    return true;
  });
  raw.input = path;
  raw.sources.push_back(ratings.describe());
  return raw;
}

}  // namespace

RawRatings read_movielens_100k(const ReadConfig& config) {
  RawRatings raw =
      read_ratings(config.input / "u.data", config, "\t", "user, item, rating, time between tabs");
  LineReader items(config.input / "u.item", config.progress);
  std::string_view line;
  std::vector<std::string_view> fields;
  raw.bad_lines.each([&] {
    if (!items.next(line)) return false;
    if (line.empty()) return true;
    split_fields(line, "|", fields);
    if (fields.size() < 2)
      throw items.error("has {} columns, expected 24 (item, title, … between |); check --format",
                        fields.size());
    raw.set_title(number_id_field(items, "item", fields[0]), title_field(fields[1]));
    return true;
  });
  raw.sources.push_back(items.describe());
  return raw;
}

RawRatings read_movielens_1m(const ReadConfig& config) {
  RawRatings raw =
      read_ratings(config.input / "ratings.dat", config, "::", "user::item::rating::time");
  LineReader movies(config.input / "movies.dat", config.progress);
  std::string_view line;
  raw.bad_lines.each([&] {
    if (!movies.next(line)) return false;
    if (line.empty()) return true;
    // A title may hold "::" itself: it stands between the first and the last.
    const std::size_t first = line.find("::"), last = line.rfind("::");
    if (first == std::string_view::npos || last < first + 2)
      throw movies.error("expected item::title::genres; check --format");
    raw.set_title(number_id_field(movies, "item", line.substr(0, first)),
                  title_field(line.substr(first + 2, last - first - 2)));
    return true;
  });
  raw.sources.push_back(movies.describe());
  return raw;
}

}  // namespace graphlora
