// https://files.grouplens.org/datasets/movielens/ml-1m-README.txt
#include "data/readers/fields.hpp"
#include "data/readers/reader.hpp"

namespace graphlora {

RawRatings read_movielens_1m(const ReadConfig& config) {
  RawRatings raw;
  std::string_view line;
  std::vector<std::string_view> fields;

  LineReader ratings(config.input / "ratings.dat", config.progress);
  while (ratings.next(line)) {
    if (line.empty()) continue;
    split_fields(line, "::", fields);
    if (fields.size() != 4)
      throw ratings.error("has {} columns, expected 4 (user::item::rating::time); check --format",
                          fields.size());
    raw.add(number_id_field(ratings, "user", fields[0]),
            number_id_field(ratings, "item", fields[1]), rating_field(ratings, fields[2]),
            time_field(ratings, fields[3]));
  }
  raw.sources.push_back(describe_source(ratings.path()));

  LineReader movies(config.input / "movies.dat", config.progress);
  while (movies.next(line)) {
    if (line.empty()) continue;
    // A title may hold "::" itself: it stands between the first and the last.
    const std::size_t first = line.find("::"), last = line.rfind("::");
    if (first == std::string_view::npos || last < first + 2)
      throw movies.error("expected item::title::genres; check --format");
    raw.set_title(number_id_field(movies, "item", line.substr(0, first)),
                  latin1_title_field(line.substr(first + 2, last - first - 2)));
  }
  raw.sources.push_back(describe_source(movies.path()));
  return raw;
}

}  // namespace graphlora
