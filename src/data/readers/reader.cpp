#include "data/readers/reader.hpp"

#include <array>

#include "core/error.hpp"

namespace graphlora {

std::span<const Format> formats() {
  static constexpr std::array all{
      Format{"movielens-100k", "u.data, u.item", 3, read_movielens_100k},
      Format{"movielens-1m", "ratings.dat, movies.dat", 3, read_movielens_1m},
      Format{"movielens-csv", "ratings.csv, movies.csv (or rating.csv, movie.csv)", 3,
             read_movielens_csv},
      Format{"amazon",
             "reviews and titles of 2014, 2018 or 2023, one JSON object a line, plain or gzip: "
             "reviews_X_5.json.gz, X_5.json or X.jsonl, and meta_X",
             4, read_amazon},
      Format{"csv", "one file with named columns, titles in it or in a second one", 3, read_csv}};
  return all;
}

RawRatings no_ratings(const ReadConfig& config) {
  RawRatings raw;
  raw.bad_lines = BadLines(config.max_bad_lines);
  raw.years = config.years;
  return raw;
}

const Format& find_format(const std::string& name) {
  std::string known;
  for (const Format& format : formats()) {
    if (name == format.name) return format;
    known += (known.empty() ? "" : ", ") + std::string(format.name);
  }
  throw ConfigError("--format: must be one of {}, got '{}'", known, name);
}

}  // namespace graphlora
