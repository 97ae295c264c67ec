// graphlora prepare: source files to a dataset directory.
#include <cstdio>
#include <limits>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "data/dataset.hpp"
#include "data/dataset_writer.hpp"
#include "data/readers/reader.hpp"
#include "graph/anchor_shares.hpp"

namespace graphlora {
namespace {

constexpr int kCutGroups = 8;  // the default of --graph.groups
constexpr std::int64_t kLastTime = std::numeric_limits<std::int64_t>::max();

struct PrepareOptions {
  std::string input, format, output, titles, reviews, metadata;
  std::int64_t from_year = YearRange::kFirst, to_year = YearRange::kLast;
  ReadConfig read;
  PrepareConfig config;
  bool json = false;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "prepare", "Reads ratings and titles, splits them and writes a dataset",
        "Reads the source files, checks every row, keeps the last of several rows of one user and "
        "item, labels rows as liked or not and divides them into train, valid and test. Prints "
        "what it found and how many rows the graph can help. Formats:\n\n" +
            format_list() +
            "\nA csv has a header with named columns and either ratings, labels (0 or 1) or "
            "clicks: rows that are all positive, to which --negatives draws others. Times are "
            "seconds or milliseconds since 1970, or dates like 2005-04-02 23:53:47 (UTC). Titles "
            "are UTF-8 or Latin-1; an item without one is shown by its id.\n\n"
            "Amazon's files are found in the input directory by the names they are published "
            "under. An item of 2023 is a parent_asin. Every file may be gzip. Titles stay as they "
            "are, HTML entities (&amp;) too.\n\n"
            "Splits never divide rows of equal time, which go to the later side. time: the last "
            "rows of all. user-time: the last rows of each user. A split may end up empty (a "
            "warning, since it can't be evaluated then), but not train (an error), and some row "
            "must be liked (an error). A single user is fine.");
    table
        .example(
            "graphlora prepare --input ml-100k --format movielens-100k --split user-time --output "
            "run/dataset",
            "MovieLens-100K, the last 10 % of each user's ratings for test")
        .example(
            "graphlora prepare --input ratings.csv --format csv --csv.user customer --csv.item "
            "sku --csv.rating stars --csv.time date --csv.titles products.csv --csv.title name "
            "--label-above 4 --output run/dataset",
            "your own ratings; products.csv has the columns sku and name")
        .example(
            "graphlora prepare --input clicks.csv --format csv --negatives 4 --output run/dataset",
            "clicks (columns user, item, time) with four drawn negatives each")
        .example(
            "graphlora prepare --input ml-1m --format movielens-1m --split.valid-from 975768738 "
            "--split.test-from 978133376 --output run/dataset",
            "boundaries at given times")
        .example(
            "graphlora prepare --input amazon --format amazon --from-year 2017 --to-year 2017 "
            "--min-activity 20 --output run/dataset",
            "Amazon-Book: amazon/ holds Books.json.gz and meta_Books.json.gz; one year, users and "
            "items with 20 reviews or more");
    std::vector<std::string> names;
    for (const Format& known : formats()) names.emplace_back(known.name);
    table
        .add_required("Input and output", "input", &input,
                      "PATH: directory of the source files; for csv the file")
        .add_required("Input and output", "format", &format, "TEXT: one of the formats above",
                      one_of(format, names))
        .add_required("Input and output", "output", &output,
                      "DIR: where the dataset goes; an older one is replaced as a whole")
        .add("Input and output", "max-bad-lines", &read.max_bad_lines,
             "malformed lines of all files that may be passed over; they are counted, the first "
             "few are shown, and one more ends the run",
             in_range(read.max_bad_lines, 0, std::numeric_limits<std::int64_t>::max()))
        .add("Input and output", "json", &json, "print the summary as JSON");
    table
        .add("Split", "split", &config.split.rule, "time or user-time",
             one_of(config.split.rule, {"time", "user-time"}))
        .add("Split", "split.valid", &config.split.valid, "share of the rows (of each user's)",
             in_range(config.split.valid, 0, 1))
        .add("Split", "split.test", &config.split.test, "share of the rows (of each user's)",
             in_range(config.split.test, 0, 1))
        .add("Split", "split.valid-from", &config.split.valid_from,
             "TIME: rows from this time on validate; with --split time, in place of shares; -1: "
             "by shares",
             in_range(config.split.valid_from, kNoTime, kLastTime))
        .add("Split", "split.test-from", &config.split.test_from,
             "TIME: rows from this time on test; -1: by shares",
             in_range(config.split.test_from, kNoTime, kLastTime));
    table
        .add("Rows", "from-year", &from_year, "rows of this year (UTC) and later",
             in_range(from_year, YearRange::kFirst, YearRange::kLast))
        .add("Rows", "to-year", &to_year, "rows of this year (UTC) and earlier",
             in_range(to_year, YearRange::kFirst, YearRange::kLast))
        .add("Rows", "min-activity", &config.activity.minimum,
             "rows that a user, and an item, must have (repeated ones count once), or its rows are "
             "left out",
             in_range(config.activity.minimum, 0, std::numeric_limits<std::int32_t>::max()))
        .add("Rows", "activity-rule", &config.activity.rule,
             "single: counted once, among all rows, so that what is left may have fewer; k-core: "
             "counted again until everyone left has as many",
             one_of(config.activity.rule, {"single", "k-core"}));
    table
        .add("Labels", "label-above", &config.label_above,
             "a rating above it is liked (MovieLens 3, Amazon 4)",
             in_range(config.label_above, -1e6, 1e6))
        .add("Labels", "negatives", &config.negatives,
             "negatives per click, drawn among items that exist at its time, by popularity^0.75, "
             "never one the user ever clicked; only for a csv of clicks",
             in_range(config.negatives, 0, 1000));
    CsvColumns& csv = read.csv;
    table.add("Columns of a csv", "csv.user", &csv.user, "the user's id")
        .add("Columns of a csv", "csv.item", &csv.item, "the item's id")
        .add("Columns of a csv", "csv.time", &csv.time, "time of the row")
        .add("Columns of a csv", "csv.rating", &csv.rating, "the rating; none: has no ratings")
        .add("Columns of a csv", "csv.label", &csv.label,
             "0 or 1; read where there are no ratings, or when another name is given")
        .add("Columns of a csv", "csv.title", &csv.title,
             "the item's title, in the titles file or in the input itself; none: has no titles")
        .add("Columns of a csv", "csv.titles", &titles,
             "FILE: second file, with the item's column and the title's")
        .add("Columns of a csv", "csv.separator", &csv.separator, "one character, or tab")
        .add("Columns of a csv", "csv.header", &csv.header,
             "false: there is no header, columns are called 1, 2, 3, …");
    table
        .add("Files of amazon", "amazon.reviews", &reviews,
             "FILE: the reviews, where the directory holds several")
        .add("Files of amazon", "amazon.metadata", &metadata,
             "FILE: the titles, where the directory holds several or none; none: ids in their "
             "place");
    add_common_options(table, common);
    return table;
  }

  static std::string format_list() {
    std::string text;
    for (const Format& known : formats())
      text +=
          fmt::format("  {:<15} {}; liked: above {}\n", known.name, known.files, known.label_above);
    return text;
  }
};

/// Shares of anchors with edges: per split, and for training rows under each cut.
struct Shares {
  AnchorShare split[3];
  std::vector<std::pair<CutRule, std::vector<AnchorShare>>> cuts;
};

Shares compute_shares(const Dataset& dataset) {
  Shares shares;
  for (const Split split : {Split::train, Split::valid, Split::test})
    shares.split[static_cast<int>(split)] = anchor_share(dataset, split);
  for (const CutKind kind : {CutKind::window, CutKind::fold}) {
    const CutRule cut(dataset, kind, kCutGroups);
    shares.cuts.emplace_back(cut, training_anchor_shares(dataset, cut));
  }
  return shares;
}

nlohmann::json shares_json(const Shares& shares) {
  nlohmann::json json;
  for (const Split split : {Split::train, Split::valid, Split::test})
    json["splits"][to_string(split)] = to_json(shares.split[static_cast<int>(split)]);
  for (const auto& [cut, groups] : shares.cuts) {
    nlohmann::json entry = to_json(total(groups));
    for (const AnchorShare& group : groups) entry["groups"].push_back(to_json(group));
    json["train_under_cut"][to_string(cut.kind())] = entry;
  }
  return json;
}

std::string percent(const AnchorShare& share, double value) {
  return share.rows > 0 ? fmt::format("{:.1f} %", 100 * value) : "-";
}

void print_summary(const std::string& output, const nlohmann::json& description,
                   const Shares& shares) {
  fmt::print("{}: {} users, {} items\n\n", output, description["users"].get<std::int64_t>(),
             description["items"].get<std::int64_t>());
  fmt::print("{:<7}{:>12}{:>9}   {}\n", "split", "rows", "liked",
             "rows with an edge at the user, item");
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    const AnchorShare& share = shares.split[static_cast<int>(split)];
    const double liked = description["liked"][to_string(split)].get<double>();
    fmt::print("{:<7}{:>12}{:>9}   {:>7} {:>7}\n", to_string(split), share.rows,
               percent(share, liked / std::max<double>(1, static_cast<double>(share.rows))),
               percent(share, share.user()), percent(share, share.item()));
  }
  fmt::print("\nTraining rows with an edge in the graph their batch sees:\n");
  for (const auto& [cut, groups] : shares.cuts) {
    const AnchorShare sum = total(groups);
    fmt::print("--graph.cut {:<7}         {:>7} {:>7}   users by {}:", to_string(cut.kind()),
               percent(sum, sum.user()), percent(sum, sum.item()), to_string(cut.kind()));
    for (const AnchorShare& group : groups) fmt::print(" {:.0f}", 100 * group.user());
    fmt::print(" %\n");
  }
  fmt::print("\n");
  for (const auto& source : description["sources"])
    fmt::print("read {} ({} bytes, sha256 {:.16}…)\n", source["file"].get<std::string>(),
               source["bytes"].get<std::int64_t>(), source["sha256"].get<std::string>());
}

void warn(const nlohmann::json& description, const Dataset& dataset, const Shares& shares) {
  const auto count = [&](const char* key) { return description[key].get<std::int64_t>(); };
  if (const std::int64_t n = count("duplicates"))
    log::warn("{} rows repeat a user and item; the last of each was kept", n);
  for (const char* key : {"years", "activity"})
    if (description.contains(key))
      log::info("{} rows were left out by {}", description[key]["dropped"].get<std::int64_t>(),
                key == std::string_view("years") ? "--from-year and --to-year" : "--min-activity");
  if (const std::int64_t n = count("missing_titles"))
    log::warn("{} of {} items have no title; prompts show their ids", n, dataset.items());
  if (const std::int64_t n = count("missing_negatives"))
    log::warn("{} negatives could not be drawn: the user had every item that existed at that time",
              n);
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    const std::int64_t rows = shares.split[static_cast<int>(split)].rows;
    const auto liked = description["liked"][to_string(split)].get<std::int64_t>();
    if (rows == 0)
      log::warn("the {} split is empty: nothing can be evaluated on it", to_string(split));
    else if (liked == 0 || liked == rows)
      log::warn("all {} rows of the {} split are {}: {}", rows, to_string(split),
                liked ? "liked" : "not liked",
                split != Split::train ? "its AUC is undefined"
                : liked ? "there is nothing to tell apart (--label-above, --negatives)"
                        : "the graph has no edges");
  }
  if (dataset.users() == 1) log::warn("there is a single user: the UAUC is that user's AUC");
  const CutKind chosen = dataset.user_time_split() ? CutKind::fold : CutKind::window;
  for (const auto& [cut, groups] : shares.cuts) {
    if (cut.kind() != chosen) continue;
    const std::string text =
        anchor_share_warning(total(groups), shares.split[static_cast<int>(Split::test)], cut);
    if (!text.empty()) log::warn("{}", text);
  }
}

/// Throws where an option was given that would have no effect.
void check_given(const OptionTable& table, const PrepareOptions& options) {
  const auto only_for = [&](const char* format, std::initializer_list<const char*> names) {
    if (options.format == format) return;
    for (const char* name : names)
      if (table.given(name))
        throw ConfigError("--{}: is for --format {} only, not {}", name, format, options.format);
  };
  only_for("csv", {"csv.user", "csv.item", "csv.time", "csv.rating", "csv.label", "csv.title",
                   "csv.titles", "csv.separator", "csv.header"});
  only_for("amazon", {"amazon.reviews", "amazon.metadata"});
  if (table.given("activity-rule") && !table.given("min-activity"))
    throw ConfigError("--activity-rule: has no effect without --min-activity");
}

/// Finds an output that can't be written, or would cost the input, before the long reading.
void check_output(const PrepareOptions& options) {
  for (const std::string& source :
       {options.input, options.titles, options.reviews, options.metadata}) {
    if (!source.empty() && lies_in(source, options.output)) {
      throw ConfigError("--output {}: holds the input {}, which would be deleted; name another",
                        options.output, source);
    }
  }
  const AtomicDirectory writable(options.output, "dataset.json");
}

void prepare(PrepareOptions& options) {
  const Format& format = find_format(options.format);
  check(options.config.split);
  if (options.from_year > options.to_year)
    throw ConfigError("--from-year {} is later than --to-year {}", options.from_year,
                      options.to_year);
  check_output(options);
  options.read.input = options.input;
  options.read.csv.titles = options.titles;
  options.read.amazon = {options.reviews, options.metadata};
  options.read.years = YearRange(options.from_year, options.to_year);
  options.config.seed = options.common.seed;
  options.config.progress = true;
  RawRatings raw = format.read(options.read);
  if (raw.bad_lines.count() > 0) {
    log::warn("{} malformed lines were passed over, for example:", raw.bad_lines.count());
    for (const std::string& example : raw.bad_lines.examples()) log::warn("{}", example);
  }
  const nlohmann::json description = write_dataset(options.output, std::move(raw), options.config);
  const Dataset dataset(options.output);
  const Shares shares = compute_shares(dataset);
  if (options.json) {
    nlohmann::json out = description;
    out["anchors_with_edges"] = shares_json(shares);
    // Names of source files may hold any bytes.
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print_summary(options.output, description, shares);
  }
  warn(description, dataset, shares);
}

}  // namespace

OptionTable describe_prepare() { return table_of<PrepareOptions>(); }

int run_prepare(Job& job, const std::vector<std::string>& arguments) {
  PrepareOptions options;
  job.agree([&] {
    OptionTable table = options.table();
    table.parse(arguments);
    check_given(table, options);
    if (!table.given("label-above"))
      options.config.label_above = find_format(options.format).label_above;
  });
  apply_common_options(options.common, *job.world());
  // One process' work; the other ranks of an mpirun only learn how it went.
  job.agree([&] {
    if (job.world()->rank() == 0) prepare(options);
  });
  return 0;
}

}  // namespace graphlora
