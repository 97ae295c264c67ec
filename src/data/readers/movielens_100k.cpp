// https://files.grouplens.org/datasets/movielens/ml-100k-README.txt
#include "data/readers/fields.hpp"
#include "data/readers/reader.hpp"

namespace graphlora {

RawRatings read_movielens_100k(const ReadConfig& config) {
  RawRatings raw;
  std::string_view line;
  std::vector<std::string_view> fields;

  LineReader ratings(config.input / "u.data", config.progress);
  while (ratings.next(line)) {
    if (line.empty()) continue;
    split_fields(line, "\t", fields);
    if (fields.size() != 4)
      throw ratings.error(
          "has {} columns, expected 4 (user, item, rating, time between tabs); check --format",
          fields.size());
    raw.add(number_id_field(ratings, "user", fields[0]),
            number_id_field(ratings, "item", fields[1]), rating_field(ratings, fields[2]),
            time_field(ratings, fields[3]));
  }
  raw.sources.push_back(describe_source(ratings.path()));

  LineReader items(config.input / "u.item", config.progress);
  while (items.next(line)) {
    if (line.empty()) continue;
    split_fields(line, "|", fields);
    if (fields.size() < 2)
      throw items.error("has {} columns, expected 24 (item, title, … between |); check --format",
                        fields.size());
    raw.set_title(number_id_field(items, "item", fields[0]), latin1_title_field(fields[1]));
  }
  raw.sources.push_back(describe_source(items.path()));
  return raw;
}

}  // namespace graphlora
