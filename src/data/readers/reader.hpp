// Readers: one per source format. Each streams its files line by line into RawRatings.
#pragma once
#include <filesystem>
#include <span>
#include <string>

#include "data/raw_ratings.hpp"

namespace graphlora {

/// How a csv names its columns. A column under its default name may be absent; "none": not read.
struct CsvColumns {
  std::string user = "user", item = "item", time = "time";  ///< required
  std::string rating = "rating";                            ///< a number; liked above a threshold
  std::string label = "label";        ///< 0 or 1; read where there is no rating, or when named
  std::string title = "title";        ///< in the titles file, else in the input itself
  std::filesystem::path titles = {};  ///< second file with an item and a title column; empty: none
  std::string separator = ",";        ///< one character, or "tab"
  bool header = true;                 ///< false: columns are named 1, 2, 3, …
};

/// Amazon's files where their names in the input directory don't tell. Empty: found there.
struct AmazonFiles {
  std::filesystem::path reviews = {};
  std::filesystem::path metadata = {};  ///< "none": no titles
};

struct ReadConfig {
  std::filesystem::path input;
  CsvColumns csv = {};  ///< only for csv
  bool progress = true;
  AmazonFiles amazon = {};         ///< only for amazon
  YearRange years = {};            ///< rows of other years are passed over
  std::int64_t max_bad_lines = 0;  ///< malformed lines to pass over, of all files together
};

struct Format {
  const char* name;
  const char* files;   ///< what it reads, for --help
  double label_above;  ///< a rating above it is liked, unless the user says otherwise
  /// Counts malformed lines in `bad_lines`. Throws DataError ("FILE:LINE: what, what to do") and,
  /// for options of csv, ConfigError.
  RawRatings (*read)(const ReadConfig& config);
};

/// No ratings yet, the limits of `config` in force: what every reader starts from.
RawRatings no_ratings(const ReadConfig& config);

/// All formats.
std::span<const Format> formats();
/// Throws ConfigError that names the formats.
const Format& find_format(const std::string& name);

RawRatings read_movielens_100k(const ReadConfig& config);
RawRatings read_movielens_1m(const ReadConfig& config);
RawRatings read_movielens_csv(const ReadConfig& config);
RawRatings read_amazon(const ReadConfig& config);
RawRatings read_csv(const ReadConfig& config);

}  // namespace graphlora
