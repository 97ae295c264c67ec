// Amazon's reviews as published: https://jmcauley.ucsd.edu/data/amazon/links.html (2014),
// https://nijianmo.github.io/amazon (2018), https://amazon-reviews-2023.github.io (2023). One
// record a line, JSON or, in the metadata of 2014, a Python literal; what a record is called tells
// the year.
#include <fmt/ranges.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "data/readers/fields.hpp"
#include "data/readers/python_literal.hpp"
#include "data/readers/reader.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace ondemand = simdjson::ondemand;
namespace {

constexpr std::string_view kNone = "none", kMeta = "meta_", kReviews = "reviews_", kCore = "_5";

/// A field and the names that it has had, the one that counts last.
struct Field {
  const char* what;
  std::vector<std::string_view> names;
  bool lenient = false;  ///< text that is none (half of a surrogate pair) counts as missing
};

/// Chosen fields of a file's records, as text.
class Records {
 public:
  Records(const fs::path& path, bool progress, std::vector<Field> fields)
      : lines_(path, progress), fields_(std::move(fields)), values_(fields_.size()) {}

  /// Reads the next record; empty lines are passed over. Throws BadLine and DataError.
  bool next() {
    std::string_view line;
    do {
      if (!lines_.next(line)) return false;
    } while (line.empty());
    try {
      if (is_python_literal(line)) {
        python_literal_to_json(line, json_);
        json_.reserve(json_.size() + simdjson::SIMDJSON_PADDING);
        line = json_;
      }
      static_assert(LineReader::kPadding >= simdjson::SIMDJSON_PADDING);
      parse(simdjson::padded_string_view(line, line.size() + simdjson::SIMDJSON_PADDING));
    } catch (const simdjson::simdjson_error& error) {
      throw lines_.error("is no JSON object on one line: {}", error.what());
    } catch (const std::invalid_argument& error) {
      throw lines_.error("is no Python literal that can be read: {}", error.what());
    }
    return true;
  }

  /// The field's text; empty: the record lacks it.
  std::string_view operator[](std::size_t field) const { return values_[field].text; }
  /// The same; a record without it is a BadLine.
  std::string_view require(std::size_t field) const {
    if (values_[field].rank == 0)
      throw lines_.error("has no {} ({}); check --format", fields_[field].what,
                         fmt::join(fields_[field].names, " or "));
    return values_[field].text;
  }
  LineReader& lines() { return lines_; }

 private:
  struct Value {
    std::string_view text;  // in the line or the parser's buffer
    std::size_t rank = 0;   // place of the name among the field's names, from 1; 0: not found
  };

  void parse(simdjson::padded_string_view json) {
    std::fill(values_.begin(), values_.end(), Value{});
    ondemand::document record = parser_.iterate(json);
    for (auto member : record.get_object()) {
      const ondemand::raw_json_string key = member.key();
      for (std::size_t f = 0; f < fields_.size(); ++f)
        for (std::size_t n = 0; n < fields_[f].names.size(); ++n)
          if (key.unsafe_is_equal(fields_[f].names[n]) && n + 1 >= values_[f].rank)
            set(f, n + 1, fields_[f].names[n], member.value());
    }
    if (record.current_location().error() != simdjson::OUT_OF_BOUNDS)
      throw lines_.error("holds more than one JSON object");
  }

  void set(std::size_t field, std::size_t rank, std::string_view name, ondemand::value json) {
    Value& value = values_[field];
    switch (json.type()) {
      case ondemand::json_type::string: {
        auto text = json.get_string();
        if (text.error() == simdjson::STRING_ERROR && fields_[field].lenient) return;
        value = {text.value(), rank};
        return;
      }
      case ondemand::json_type::number:
        value = {json.raw_json_token(), rank};
        return;
      case ondemand::json_type::null:
        return;
      default:
        throw lines_.error("the field '{}' is neither text nor a number", name);
    }
  }

  LineReader lines_;
  std::vector<Field> fields_;
  std::vector<Value> values_;
  ondemand::parser parser_;
  std::string json_;
};

/// The name without the extension of a file of records; empty if it has none.
std::string_view stem_of(std::string_view name) {
  if (name.ends_with(".gz")) name.remove_suffix(3);
  for (const std::string_view extension : {".json", ".jsonl"})
    if (name.ends_with(extension)) return name.substr(0, name.size() - extension.size());
  return {};
}

/// Books of reviews_Books_5.json.gz, Books.jsonl and meta_Books.json.
std::string_view category_of(std::string_view name) {
  name = stem_of(name);
  if (name.starts_with(kMeta)) return name.substr(kMeta.size());
  if (name.starts_with(kReviews)) name.remove_prefix(kReviews.size());
  if (name.ends_with(kCore)) name.remove_suffix(kCore.size());
  return name;
}

struct Files {
  fs::path reviews, metadata;  // metadata may be empty: none
};

Files find_files(const ReadConfig& config) {
  Files files{config.amazon.reviews, config.amazon.metadata};
  const bool without = files.metadata == kNone;
  if (without) files.metadata.clear();
  if (!files.reviews.empty() && (without || !files.metadata.empty())) return files;

  std::vector<std::string> reviews, metadata;
  std::error_code error;
  for (fs::directory_iterator entry(config.input, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (name.starts_with('.') || stem_of(name).empty()) continue;
    (name.starts_with(kMeta) ? metadata : reviews).push_back(std::move(name));
  }
  const std::string input = config.input.string();
  if (error)
    throw DataError(
        "{}: cannot be read as a directory: {}; with --format amazon, --input names "
        "one",
        input, error.message());
  std::sort(reviews.begin(), reviews.end());
  std::sort(metadata.begin(), metadata.end());
  if (files.reviews.empty()) {
    if (reviews.empty())
      throw DataError(
          "{}: has no file of reviews (reviews_Books_5.json.gz, Books.json.gz, "
          "Books.jsonl.gz …); name it with --amazon.reviews",
          input);
    if (reviews.size() > 1)
      throw DataError(
          "{}: has several files that may be the reviews ({}); name one with "
          "--amazon.reviews",
          input, fmt::join(reviews, ", "));
    files.reviews = config.input / reviews.front();
  }
  if (!without && files.metadata.empty()) {
    const std::string name = files.reviews.filename().string();
    const std::string_view category = category_of(name);
    const std::string all = fmt::format("{}", fmt::join(metadata, ", "));
    std::erase_if(metadata, [&](const std::string& m) { return category_of(m) != category; });
    if (metadata.size() != 1)
      throw DataError(
          "{}: {} has the titles of {} (here: {}); name one with --amazon.metadata, or "
          "none: ids in place of titles",
          input, metadata.empty() ? "no file" : "more than one file", name,
          all.empty() ? "no meta_*" : all);
    files.metadata = config.input / metadata.front();
  }
  return files;
}

void read_reviews(const fs::path& path, const ReadConfig& config, RawRatings& raw) {
  enum { user, item, rating, time };
  Records records(path, config.progress,
                  {{"user", {"reviewerID", "user_id"}},
                   {"item", {"asin", "parent_asin"}},
                   {"rating", {"overall", "rating"}},
                   {"time", {"unixReviewTime", "timestamp"}}});
  const LineReader& at = records.lines();
  TimeColumn times;
  raw.bad_lines.each([&] {
    if (!records.next()) return false;
    const std::string_view user_id = id_field(at, "user", records.require(user)),
                           item_id = id_field(at, "item", records.require(item));
    const float value = rating_field(at, records.require(rating));
    raw.add(user_id, item_id, value, times.field(at, records.require(time)));
    return true;
  });
  raw.input = path;
  raw.sources.push_back(records.lines().describe());
}

void read_titles(const fs::path& path, const ReadConfig& config, RawRatings& raw) {
  enum { item, title };
  Records records(path, config.progress,
                  {{"item", {"asin", "parent_asin"}}, {"title", {"title"}, true}});
  raw.bad_lines.each([&] {
    if (!records.next()) return false;
    const std::string_view item_id = id_field(records.lines(), "item", records.require(item));
    if (raw.lacks_title(item_id)) raw.set_title(item_id, title_field(records[title]));
    return true;
  });
  raw.sources.push_back(records.lines().describe());
}

}  // namespace

RawRatings read_amazon(const ReadConfig& config) {
  const Files files = find_files(config);
  RawRatings raw = no_ratings(config);
  read_reviews(files.reviews, config, raw);
  if (!files.metadata.empty()) read_titles(files.metadata, config, raw);
  return raw;
}

}  // namespace graphlora
