// Amazon's reviews as published: https://jmcauley.ucsd.edu/data/amazon/links.html (2014),
// https://nijianmo.github.io/amazon (2018), https://amazon-reviews-2023.github.io (2023). One
// record a line, JSON or, in the metadata of 2014, a Python literal; what a record is called tells
// the year.
#include <fmt/ranges.h>
#include <simdjson.h>

#include <algorithm>
#include <memory>
#include <memory_resource>
#include <stdexcept>

#include "data/readers/fields.hpp"
#include "data/readers/parse_blocks.hpp"
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

/// Chosen fields of a record, as text.
class Record {
 public:
  explicit Record(std::vector<Field> fields)
      : fields_(std::move(fields)), values_(fields_.size()) {}

  /// Reads the next record of `lines`, a Lines or LineReader; empty lines are passed over. Throws
  /// BadLine and DataError.
  template <class Source>
  bool next(Source& lines) {
    std::string_view line;
    do {
      if (!lines.next(line)) return false;
    } while (line.empty());
    parse(lines, line);
    return true;
  }

  /// The field's text, which holds until the next record is read; empty: the record lacks it.
  std::string_view operator[](std::size_t field) const { return values_[field].text; }
  /// The same; a record without it is a BadLine.
  std::string_view require(const Lines& at, std::size_t field) const {
    if (values_[field].rank == 0)
      throw at.error("has no {} ({}); check --format", fields_[field].what,
                     fmt::join(fields_[field].names, " or "));
    return values_[field].text;
  }

 private:
  struct Value {
    std::string_view text;  // in the line or the parser's buffer
    std::size_t rank = 0;   // place of the name among the field's names, from 1; 0: not found
  };

  void parse(const Lines& at, std::string_view line) {
    try {
      if (is_python_literal(line)) {
        python_literal_to_json(line, json_);
        json_.reserve(json_.size() + simdjson::SIMDJSON_PADDING);
        line = json_;
      }
      static_assert(LineBlocks::kPadding >= simdjson::SIMDJSON_PADDING);
      read_fields(at, simdjson::padded_string_view(line, line.size() + simdjson::SIMDJSON_PADDING));
    } catch (const simdjson::simdjson_error& error) {
      throw at.error("is no JSON object on one line: {}", error.what());
    } catch (const std::invalid_argument& error) {
      throw at.error("is no Python literal that can be read: {}", error.what());
    }
  }

  void read_fields(const Lines& at, simdjson::padded_string_view json) {
    std::fill(values_.begin(), values_.end(), Value{});
    ondemand::document record = parser_.iterate(json);
    for (auto member : record.get_object()) {
      const ondemand::raw_json_string key = member.key();
      for (std::size_t f = 0; f < fields_.size(); ++f)
        for (std::size_t n = 0; n < fields_[f].names.size(); ++n)
          // Most names differ in their first letter, and this loop is most of the work.
          if (*key.raw() == fields_[f].names[n].front() &&
              key.unsafe_is_equal(fields_[f].names[n]) && n + 1 >= values_[f].rank)
            set(at, f, n + 1, member.value());
    }
    if (record.current_location().error() != simdjson::OUT_OF_BOUNDS)
      throw at.error("holds more than one JSON object");
  }

  void set(const Lines& at, std::size_t field, std::size_t rank, ondemand::value json) {
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
        throw at.error("the field '{}' is neither text nor a number",
                       fields_[field].names[rank - 1]);
    }
  }

  std::vector<Field> fields_;
  std::vector<Value> values_;
  ondemand::parser parser_;
  std::string json_;
};

/// The reviews of one block: what another thread makes of it.
class ReviewParser {
 public:
  ReviewParser(const fs::path& path, std::int64_t max_bad_lines)
      : lines_(path), max_bad_lines_(max_bad_lines) {}

  LineBlock block;
  // Of the block; ids are in this object's memory. Lines count from the block's first one.
  RowColumns rows;
  std::vector<BadLine> bad_lines;  ///< at most one more than are allowed
  TimeColumn times;                ///< a guess before parse(): of blocks before this one, or empty

  void parse();
  std::int64_t lines() const { return lines_.line(); }

 private:
  std::string_view kept(std::string_view id);

  enum { user, item, rating, time };
  Lines lines_;
  std::int64_t max_bad_lines_;
  Record record_{{{"user", {"reviewerID", "user_id"}},
                  {"item", {"asin", "parent_asin"}},
                  {"rating", {"overall", "rating"}},
                  {"time", {"unixReviewTime", "timestamp"}}}};
  std::unique_ptr<std::pmr::monotonic_buffer_resource> ids_ =
      std::make_unique<std::pmr::monotonic_buffer_resource>(std::size_t{1} << 16);
};

std::string_view ReviewParser::kept(std::string_view id) {
  auto* memory = static_cast<char*>(ids_->allocate(id.size(), 1));
  return {memory, id.copy(memory, id.size())};
}

void ReviewParser::parse() {
  rows.clear();
  bad_lines.clear();
  ids_->release();
  lines_.restart();
  lines_.open(block.text());
  while (static_cast<std::int64_t>(bad_lines.size()) <= max_bad_lines_) {
    try {
      while (record_.next(lines_)) {
        const std::string_view user_id = id_field(lines_, "user", record_.require(lines_, user)),
                               item_id = id_field(lines_, "item", record_.require(lines_, item));
        const float value = rating_field(lines_, record_.require(lines_, rating));
        const std::int64_t when = times.field(lines_, record_.require(lines_, time));
        rows.user.push_back(kept(user_id));
        rows.item.push_back(kept(item_id));
        rows.rating.push_back(value);
        rows.time.push_back(when);
      }
      return;
    } catch (const BadLine& bad) {
      bad_lines.push_back(bad);
    }
  }
}

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
  LineBlocks blocks(path, config.progress);
  TimeColumn times;
  std::int64_t lines = 0;
  parse_blocks(
      blocks, [&] { return ReviewParser(path, config.max_bad_lines); },
      [&](ReviewParser& part) {
        if (!times.empty() && part.times != times) {  // it guessed wrong
          part.times = times;
          part.parse();
        }
        times = part.times;
        for (const BadLine& bad : part.bad_lines) raw.bad_lines.add(bad.moved_by(lines));
        raw.add(part.rows);
        lines += part.lines();
      });
  raw.input = path;
  raw.sources.push_back(blocks.describe());
}

void read_titles(const fs::path& path, const ReadConfig& config, RawRatings& raw) {
  enum { item, title };
  LineReader lines(path, config.progress);
  Record record({{"item", {"asin", "parent_asin"}}, {"title", {"title"}, true}});
  raw.bad_lines.each([&] {
    if (!record.next(lines)) return false;
    const std::string_view item_id = id_field(lines, "item", record.require(lines, item));
    if (raw.lacks_title(item_id)) raw.set_title(item_id, title_field(record[title]));
    return true;
  });
  raw.sources.push_back(lines.describe());
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
