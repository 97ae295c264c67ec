// MovieLens as csv: ratings.csv and movies.csv with userId,movieId,rating,timestamp, or the copies
// with user_id,item_id,… or with quoted headers and dates (rating.csv, movie.csv).
#include <array>

#include "data/readers/csv_table.hpp"
#include "data/readers/fields.hpp"
#include "data/readers/reader.hpp"

namespace graphlora {
namespace {

constexpr std::array<std::string_view, 2> kUser{"userId", "user"};
constexpr std::array<std::string_view, 4> kItem{"movieId", "itemId", "movie", "item"};
constexpr std::array<std::string_view, 1> kRating{"rating"};
constexpr std::array<std::string_view, 2> kTime{"timestamp", "time"};
constexpr std::array<std::string_view, 2> kTitle{"title", "movieTitle"};
const char* const kAdvice = "for other names use --format csv";

std::filesystem::path either(const std::filesystem::path& directory, const char* usual,
                             const char* other) {
  std::error_code ignored;
  return directory / (std::filesystem::exists(directory / usual, ignored) ||
                              !std::filesystem::exists(directory / other, ignored)
                          ? usual
                          : other);
}

}  // namespace

RawRatings read_movielens_csv(const ReadConfig& config) {
  RawRatings raw = no_ratings(config);
  std::vector<std::string_view> row;
  {
    CsvTable ratings(either(config.input, "ratings.csv", "rating.csv"), ',', true, config.progress);
    const int user = ratings.require(kUser, kAdvice), item = ratings.require(kItem, kAdvice),
              rating = ratings.require(kRating, kAdvice), time = ratings.require(kTime, kAdvice);
    const LineReader& at = ratings.lines();
    TimeColumn times;
    raw.bad_lines.each([&] {
      if (!ratings.next(row)) return false;
      raw.add(id_field(at, "user", row[user]), id_field(at, "item", row[item]),
              rating_field(at, row[rating]), times.field(at, row[time]));
      return true;
    });
    raw.input = at.path();
    raw.sources.push_back(at.describe());
  }
  CsvTable movies(either(config.input, "movies.csv", "movie.csv"), ',', true, config.progress);
  const int item = movies.require(kItem, kAdvice), title = movies.require(kTitle, kAdvice);
  raw.bad_lines.each([&] {
    if (!movies.next(row)) return false;
    raw.set_title(id_field(movies.lines(), "item", row[item]), title_field(row[title]));
    return true;
  });
  raw.sources.push_back(movies.lines().describe());
  return raw;
}

}  // namespace graphlora
