#include "data/dataset_writer.hpp"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <array>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/progress.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "data/group_rows.hpp"
#include "data/negatives.hpp"
#include "data/text.hpp"
#include "data/time_order.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

template <class T>
void keep_only(std::vector<T>& values, const std::vector<std::uint8_t>& keep) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (keep[i]) values[kept++] = values[i];
  values.resize(kept);
}

/// Rows on their way to the file, by time; users and items by source number until renumber().
struct Rows {
  std::vector<std::int32_t> user, item;
  std::vector<float> rating;
  std::vector<std::int64_t> time;
  std::size_t size() const { return user.size(); }
  /// Leaves out the rows where `stays` is 0.
  void keep(const std::vector<std::uint8_t>& stays) {
    if (std::find(stays.begin(), stays.end(), 0) == stays.end()) return;
    keep_only(user, stays);
    keep_only(item, stays);
    keep_only(rating, stays);
    keep_only(time, stays);
  }
};

/// The values in another order; the old ones are given back to the system.
template <class T>
std::vector<T> picked(std::vector<T>& values, std::span<const std::uint32_t> order) {
  std::vector<T> out(order.size());
  at::parallel_for(0, static_cast<std::int64_t>(order.size()), 1 << 16,
                   [&](std::int64_t from, std::int64_t to) {
                     for (std::int64_t i = from; i < to; ++i) out[i] = values[order[i]];
                   });
  std::vector<T>().swap(values);
  return out;
}

/// Keeps the last row of each (user, item); rows ascending in time.
void remove_duplicates(Rows& rows, std::int32_t users, std::int32_t items) {
  std::vector<std::uint8_t> keep(rows.size(), 1);
  {
    const GroupedRows by_user = group_rows(rows.user, users);
    at::parallel_for(0, users, 4096, [&](std::int64_t from, std::int64_t to) {
      std::vector<std::int32_t> last_user(items, -1);
      for (std::int64_t u = from; u < to; ++u) {
        const auto own = by_user[u];
        for (auto row = own.rbegin(); row != own.rend(); ++row) {
          std::int32_t& seen_by = last_user[rows.item[*row]];
          keep[*row] = seen_by != u;
          seen_by = static_cast<std::int32_t>(u);
        }
      }
    });
  }
  rows.keep(keep);
}

/// A column with each click's negatives behind it: of the click's own value, or another's.
template <class T, class OfNegative>
std::vector<T> with_negatives(std::vector<T>& clicks, const std::vector<Negative>& negatives,
                              OfNegative of_negative) {
  std::vector<T> out;
  out.reserve(clicks.size() + negatives.size());
  auto negative = negatives.begin();
  for (std::size_t row = 0; row < clicks.size(); ++row) {
    out.push_back(clicks[row]);
    for (; negative != negatives.end() && negative->row == row; ++negative)
      out.push_back(of_negative(clicks[row], *negative));
  }
  std::vector<T>().swap(clicks);
  return out;
}

void add_negatives(Rows& rows, const std::vector<Negative>& negatives) {
  const auto same = [](auto of_click, const Negative&) { return of_click; };
  rows.user = with_negatives(rows.user, negatives, same);
  rows.item = with_negatives(rows.item, negatives,
                             [](std::int32_t, const Negative& negative) { return negative.item; });
  rows.rating = with_negatives(rows.rating, negatives, [](float, const Negative&) { return 0.0F; });
  rows.time = with_negatives(rows.time, negatives, same);
}

/// Numbers by first appearance, in place; returns the source number of each.
std::vector<std::int32_t> renumber(std::vector<std::int32_t>& values, std::int32_t count) {
  std::vector<std::int32_t> number(count, -1), source;
  for (std::int32_t& value : values) {
    std::int32_t& known = number[value];
    if (known < 0) {
      known = static_cast<std::int32_t>(source.size());
      source.push_back(value);
    }
    value = known;
  }
  return source;
}

std::vector<std::int64_t> widened(std::vector<std::int32_t> values) {
  return {values.begin(), values.end()};
}

/// Strings as {name}_offsets and {name}_bytes.
class StringColumn {
 public:
  void add(std::string_view text) {
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    offsets_.push_back(static_cast<std::int64_t>(bytes_.size()));
  }
  std::vector<std::pair<std::string, at::Tensor>> tensors(const std::string& name) const {
    return {{name + "_offsets", view_of(offsets_)}, {name + "_bytes", view_of(bytes_)}};
  }

 private:
  std::vector<std::int64_t> offsets_{0};
  std::vector<std::uint8_t> bytes_;
};

/// Liked rows by user and time.
void write_history(const fs::path& path, const Rows& rows, const std::vector<std::uint8_t>& label,
                   std::int64_t users) {
  std::vector<std::int64_t> offsets(users + 1, 0);
  for (std::size_t row = 0; row < rows.size(); ++row) offsets[rows.user[row] + 1] += label[row];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  std::vector<std::int64_t> next(offsets.begin(), offsets.end() - 1);
  std::vector<std::int64_t> item(offsets.back()), time(offsets.back());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (!label[row]) continue;
    const std::int64_t at = next[rows.user[row]]++;
    item[at] = rows.item[row];
    time[at] = rows.time[row];
  }
  write_safetensors(
      path, {{"offsets", view_of(offsets)}, {"item", view_of(item)}, {"time", view_of(time)}});
}

nlohmann::json describe_label(const RawRatings& raw, const PrepareConfig& config) {
  switch (raw.kind) {
    case RatingKind::rating:
      return {{"rule", "rating"}, {"above", config.label_above}};
    case RatingKind::label:
      return {{"rule", "label"}};
    case RatingKind::click:
      return {{"rule", "click"}, {"negatives", config.negatives}};
  }
  return {};
}

}  // namespace

std::string dataset_fingerprint(const nlohmann::json& description) {
  nlohmann::json content;
  for (const char* key : {"format_version", "users", "items", "split", "files"})
    content[key] = description.at(key);
  return sha256(content.dump());
}

nlohmann::json write_dataset(const fs::path& directory, RawRatings raw, const PrepareConfig& config,
                             const DescribeRows& describe) {
  const std::string where = raw.input.empty() ? "the input" : raw.input.string();
  if (raw.rows() == 0 && raw.outside_years > 0)
    throw DataError(
        "{}: none of the {} rows is of the years {} to {}; change --from-year, --to-year", where,
        raw.outside_years, raw.years.first(), raw.years.last());
  if (raw.rows() == 0) throw DataError("{}: has no rows; there is nothing to prepare", where);
  if (raw.kind == RatingKind::click && config.negatives < 1)
    throw ConfigError("clicks alone have no negatives: give --negatives K (4 is usual)");
  if (raw.kind != RatingKind::click && config.negatives != 0)
    throw ConfigError("--negatives is for clicks only: this input has ratings or labels");

  if (raw.rows() >= std::numeric_limits<std::uint32_t>::max() / (config.negatives + 1))
    throw DataError("{}: {} rows (with negatives) are more than 2^32-1: split the data", where,
                    raw.rows() * (config.negatives + 1));

  constexpr std::int64_t kSteps = 6;
  Progress bar("preparing", kSteps, "steps", config.progress);
  bar.update(0, "sorting rows");
  const std::int64_t source_rows = raw.rows();
  Rows rows;
  {
    const std::vector<std::uint32_t> order = time_order(raw.time);
    rows = {picked(raw.user, order), picked(raw.item, order), picked(raw.rating, order),
            picked(raw.time, order)};
  }
  bar.update(1, "looking for duplicates");
  remove_duplicates(rows, raw.users.size(), raw.items.size());
  const auto distinct = static_cast<std::int64_t>(rows.size());
  const std::int64_t duplicates = source_rows - distinct;
  if (config.activity.minimum > 1)
    rows.keep(
        active_rows(config.activity, rows.user, rows.item, raw.users.size(), raw.items.size()));
  if (rows.size() == 0)
    throw DataError(
        "{}: none of the {} rows is left: a user or item of each has fewer than {} "
        "({}); lower --min-activity",
        where, distinct, config.activity.minimum, config.activity.rule);
  const auto kept = static_cast<std::int64_t>(rows.size());
  std::int64_t missing_negatives = 0;
  if (raw.kind == RatingKind::click) {
    bar.update(2, "drawing negatives");
    const std::vector<Negative> negatives =
        draw_negatives(rows.user, rows.item, rows.time, raw.users.size(), raw.items.size(),
                       config.negatives, static_cast<std::uint64_t>(config.seed));
    missing_negatives = static_cast<std::int64_t>(rows.size()) * config.negatives -
                        static_cast<std::int64_t>(negatives.size());
    add_negatives(rows, negatives);
  }
  const auto count = static_cast<std::int64_t>(rows.size());

  // As the ratings are: 3.7 must not be above 3.7.
  const float above =
      raw.kind == RatingKind::rating ? static_cast<float>(config.label_above) : 0.5F;
  std::vector<std::uint8_t> label(count);
  std::transform(rows.rating.begin(), rows.rating.end(), label.begin(),
                 [&](float r) -> std::uint8_t { return r > above; });
  if (std::find(label.begin(), label.end(), 1) == label.end()) {
    if (raw.kind == RatingKind::rating)
      throw DataError("{}: no row is liked: no rating is above {} (the highest is {}); {}", where,
                      above, *std::max_element(rows.rating.begin(), rows.rating.end()),
                      config.advice.none_liked);
    throw DataError("{}: no row is liked: every label is 0", where);
  }

  bar.update(3, "splitting");
  const std::vector<Split> split = split_rows(rows.user, rows.time, raw.users.size(), config.split);
  std::array<std::int64_t, 3> split_rows_count{}, split_liked{};
  for (std::int64_t row = 0; row < count; ++row) {
    ++split_rows_count[static_cast<int>(split[row])];
    split_liked[static_cast<int>(split[row])] += label[row];
  }
  if (split_rows_count[0] == 0)
    throw DataError(
        "{}: no row is left to train on (valid {}, test {}; equal times are never divided): {}",
        where, split_rows_count[1], split_rows_count[2], config.advice.none_to_train);

  nlohmann::json more;
  if (describe) more = describe({rows.user, rows.item, label, split});
  const std::vector<std::int32_t> source_user = renumber(rows.user, raw.users.size());
  const std::vector<std::int32_t> source_item = renumber(rows.item, raw.items.size());
  const auto users = static_cast<std::int64_t>(source_user.size());
  const auto items = static_cast<std::int64_t>(source_item.size());

  AtomicDirectory out(directory, "dataset.json");
  nlohmann::json files;
  const auto written = [&](const char* name) {
    const fs::path path = out.path() / name;
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(path, error);
    if (error) throw DataError("{}: {}", path.string(), error.message());
    files[name] = {{"bytes", bytes}, {"sha256", sha256_file(path)}};
  };
  bar.update(4, "writing histories");
  write_history(out.path() / "history.safetensors", rows, label, users);
  written("history.safetensors");
  {
    bar.update(5, "writing interactions");
    const std::vector<std::int64_t> user = widened(std::move(rows.user)),
                                    item = widened(std::move(rows.item));
    write_safetensors(out.path() / "interactions.safetensors", {{"user", view_of(user)},
                                                                {"item", view_of(item)},
                                                                {"time", view_of(rows.time)},
                                                                {"rating", view_of(rows.rating)},
                                                                {"label", view_of(label)},
                                                                {"split", view_of(split)}});
    written("interactions.safetensors");
  }
  {
    StringColumn ids;
    for (const std::int32_t source : source_user) ids.add(raw.users[source]);
    write_safetensors(out.path() / "users.safetensors", ids.tensors("id"));
    written("users.safetensors");
  }
  std::int64_t missing_titles = 0;
  {
    StringColumn ids, titles;
    for (const std::int32_t source : source_item) {
      const bool known =
          static_cast<std::size_t>(source) < raw.titles.size() && !raw.titles[source].empty();
      missing_titles += !known;
      ids.add(raw.items[source]);
      titles.add(known ? raw.titles[source] : raw.items[source]);
    }
    auto tensors = ids.tensors("id");
    for (auto& tensor : titles.tensors("title")) tensors.push_back(std::move(tensor));
    write_safetensors(out.path() / "items.safetensors", tensors);
    written("items.safetensors");
  }

  nlohmann::json rule = {{"rule", config.split.rule}};
  if (config.split.valid_from != kNoTime) {
    rule["valid_from"] = config.split.valid_from;
    rule["test_from"] = config.split.test_from;
  } else {
    rule["valid"] = config.split.valid;
    rule["test"] = config.split.test;
  }
  const auto per_split = [](const std::array<std::int64_t, 3>& n) {
    return nlohmann::json{{"train", n[0]}, {"valid", n[1]}, {"test", n[2]}};
  };
  nlohmann::json description = {{"format_version", kDatasetVersion},
                                {"users", users},
                                {"items", items},
                                {"rows", per_split(split_rows_count)},
                                {"liked", per_split(split_liked)},
                                {"split", rule},
                                {"label", describe_label(raw, config)},
                                {"duplicates", duplicates},
                                {"missing_titles", missing_titles},
                                {"missing_negatives", missing_negatives},
                                {"seed", config.seed},
                                {"sources", raw.sources},
                                {"files", files}};
  if (!raw.years.all())
    description["years"] = {
        {"first", raw.years.first()}, {"last", raw.years.last()}, {"dropped", raw.outside_years}};
  if (config.activity.minimum > 1)
    description["activity"] = {{"minimum", config.activity.minimum},
                               {"rule", config.activity.rule},
                               {"dropped", distinct - kept}};
  if (raw.bad_lines.count() > 0) description["bad_lines"] = raw.bad_lines.count();
  if (!more.empty()) description.update(more);
  if (config.split.rule == "time") {
    const auto first_of = [&](Split wanted) -> nlohmann::json {
      const auto found = std::find(split.begin(), split.end(), wanted);
      return found == split.end() ? nlohmann::json()
                                  : nlohmann::json(rows.time[found - split.begin()]);
    };
    description["first_time"] = {{"train", first_of(Split::train)},
                                 {"valid", first_of(Split::valid)},
                                 {"test", first_of(Split::test)}};
  }
  description["fingerprint"] = dataset_fingerprint(description);
  write_json(out.path() / "dataset.json", description);
  out.commit();
  bar.update(kSteps);
  return description;
}

}  // namespace graphlora
