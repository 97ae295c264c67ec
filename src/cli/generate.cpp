// graphlora generate: a planted dataset of any size.
#include "graph/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/progress.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
constexpr double kFewInside = 0.6;
// By which --as csv knows its own directories: people have files called ratings.csv, too.
constexpr const char* kRawMarker = "generated.json";

struct GenerateOptions {
  GenerateConfig config;
  PrepareConfig prepare;
  std::string output, as = "dataset";
  bool json = false;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "generate", "Writes a planted dataset of any size, with titles of real words",
        "For tests and measurements at scale where no real data can be had. Users and items form "
        "communities; 70 % of a user's interactions stay within its community, as long as that has "
        "items left that the user lacks, the others follow the items' popularity (Zipf's law, "
        "exponent 1). The number of a user's interactions is "
        "log-normal, with median 12 where there are 20 a user on average. Times span five years, "
        "more users join as time goes on. A rating above 3 is liked; whether it is depends on "
        "community, item and user, and chance: dataset.json says which AUC the best possible "
        "scores reach on the test rows (generated.best_auc, about 0.83). Half of a title's words "
        "are from its community's own vocabulary.\n\n"
        "The same options give the same bytes at any number of threads. Items that nobody drew "
        "are left out. --as csv writes ratings.csv and items.csv instead, which prepare reads, and "
        "generated.json with these options.");
    table
        .example(
            "graphlora generate --users 1000000 --items 100000 --interactions 20000000 "
            "--communities 200 --output run/million",
            "a million users: some 10 s and 1 GiB on two cores")
        .example(
            "graphlora generate --users 1000 --items 500 --interactions 20000 --communities 5 "
            "--as csv --output run/raw",
            "a small one as raw files")
        .example(
            "graphlora prepare --input run/raw/ratings.csv --format csv --csv.time timestamp "
            "--csv.titles run/raw/items.csv --output run/dataset",
            "which prepare reads");
    table
        .add_required("Data", "users", &config.users, "number of users",
                      in_range(config.users, 1, kMost))
        .add_required("Data", "items", &config.items, "number of items",
                      in_range(config.items, 1, kMost))
        .add_required("Data", "interactions", &config.interactions,
                      "number of rows: from one a user to one a pair of user and item",
                      in_range(config.interactions, 1, kMost))
        .add("Data", "communities", &config.communities,
             "number of communities, at most that of the items",
             in_range(config.communities, 1, kMost));
    table
        .add_required("Output", "output", &output,
                      "DIR: where the data go; older ones that this command wrote the same way are "
                      "replaced as a whole")
        .add("Output", "as", &as, "dataset, or csv: ratings.csv, items.csv and generated.json",
             one_of(as, {"dataset", "csv"}))
        .add("Output", "split", &prepare.split.rule,
             "time: the last 10 % of all rows are test, 10 % before them valid; user-time: of each "
             "user's rows",
             one_of(prepare.split.rule, {"time", "user-time"}))
        .add("Output", "json", &json, "print dataset.json");
    add_common_options(table, common);
    return table;
  }
};

/// ratings.csv (user,item,rating,timestamp), items.csv (item,title) and what they are.
void write_csv(const std::string& directory, const RawRatings& raw,
               const nlohmann::json& description) {
  constexpr std::size_t kBuffer = 1 << 20;
  AtomicDirectory out(directory, kRawMarker);
  fmt::memory_buffer text;
  const auto append = [&](auto... parts) { (text.append(std::string_view(parts)), ...); };
  {
    AtomicFile items(out.path() / "items.csv");
    append("item,title\n");
    for (std::int32_t i = 0; i < raw.items.size(); ++i) {
      append(raw.items[i], ",", raw.titles[i], "\n");
      if (text.size() < kBuffer) continue;
      items.write({text.data(), text.size()});
      text.clear();
    }
    items.write({text.data(), text.size()});
    text.clear();
    items.commit();
  }
  AtomicFile ratings(out.path() / "ratings.csv");
  Progress bar("writing ratings.csv", raw.rows(), "rows");
  append("user,item,rating,timestamp\n");
  for (std::int64_t row = 0; row < raw.rows(); ++row) {
    append(raw.users[raw.user[row]], ",", raw.items[raw.item[row]]);
    fmt::format_to(std::back_inserter(text), ",{},{}\n", static_cast<int>(raw.rating[row]),
                   raw.time[row]);
    if (text.size() < kBuffer) continue;
    ratings.write({text.data(), text.size()});
    text.clear();
    bar.update(row);
  }
  ratings.write({text.data(), text.size()});
  bar.update(raw.rows());
  ratings.commit();
  write_json(out.path() / kRawMarker, description);
  out.commit();
}

void print_summary(const std::string& output, const nlohmann::json& description) {
  const auto count = [&](const char* what, const char* split) {
    return description[what][split].get<std::int64_t>();
  };
  fmt::print("{}: {} users, {} items\n", output, description["users"].get<std::int64_t>(),
             description["items"].get<std::int64_t>());
  for (const char* split : {"train", "valid", "test"}) {
    fmt::print("{:<7}{:>12} rows{:>9.1f} % liked\n", split, count("rows", split),
               100.0 * static_cast<double>(count("liked", split)) /
                   static_cast<double>(std::max<std::int64_t>(1, count("rows", split))));
  }
  fmt::print("best reachable AUC on test: {}\n", description["generated"]["best_auc"].dump());
}

void print_summary(const std::string& output, const RawRatings& raw) {
  const auto liked =
      std::count_if(raw.rating.begin(), raw.rating.end(), [](float rating) { return rating > 3; });
  fmt::print("{}: {} users, {} items, {} rows, {:.1f} % liked; ratings.csv, items.csv\n", output,
             raw.users.size(), raw.items.size(), raw.rows(),
             100.0 * static_cast<double>(liked) / static_cast<double>(raw.rows()));
}

void warn(const GenerateConfig& config, const nlohmann::json& generated) {
  const auto inside = generated.at("inside").get<double>();
  if (inside < kFewInside)
    log::warn(
        "only {:.1f} % of the rows are within communities, not 70 %: a community has {} items, a "
        "user {} rows on average; choose more --items or fewer --communities",
        100 * inside, config.items / config.communities, config.interactions / config.users);
}

void generate(GenerateOptions& options) {
  // Finds an output that can't be written before the work.
  {
    const AtomicDirectory writable(options.output,
                                   options.as == "csv" ? kRawMarker : "dataset.json");
  }
  options.prepare.progress = true;
  options.prepare.advice = {.none_liked = "choose more --interactions or another --seed",
                            .none_to_train = "choose more --interactions or --split user-time"};
  options.config.seed = options.prepare.seed = options.common.seed;
  const PlantedData data(options.config);
  if (options.as == "csv") {
    const RawRatings raw = data.ratings();
    const nlohmann::json description = data.describe(raw.user, raw.item);
    write_csv(options.output, raw, description);
    print_summary(options.output, raw);
    warn(options.config, description);
    return;
  }
  const nlohmann::json description =
      write_dataset(options.output, data.ratings(), options.prepare,
                    [&](const PreparedRows& rows) { return data.describe(rows); });
  if (options.json)
    fmt::print("{}\n", description.dump(2));
  else
    print_summary(options.output, description);
  warn(options.config, description.at("generated"));
}

}  // namespace

OptionTable describe_generate() { return table_of<GenerateOptions>(); }

int run_generate(Job& job, const std::vector<std::string>& arguments) {
  GenerateOptions options;
  job.agree([&] {
    OptionTable table = options.table();
    table.parse(arguments);
    if (options.as == "csv" && (table.given("split") || options.json))
      throw ConfigError("--as csv writes raw files: --split and --json are for a dataset");
  });
  apply_common_options(options.common, *job.world());
  // One process' work; the other ranks of an mpirun only learn how it went.
  job.agree([&] {
    if (job.world()->rank() == 0) generate(options);
  });
  return 0;
}

}  // namespace graphlora
