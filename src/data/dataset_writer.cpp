#include "data/dataset_writer.hpp"

#include <torch/types.h>

#include <array>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "data/group_rows.hpp"
#include "data/negatives.hpp"
#include "data/text.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

/// Rows on their way to the file; users and items by source number until renumber().
struct Rows {
  std::vector<std::int32_t> user, item;
  std::vector<float> rating;
  std::vector<std::int64_t> time;
  std::size_t size() const { return user.size(); }
};

template <class T>
std::vector<T> picked(const std::vector<T>& values, std::span<const std::int64_t> rows) {
  std::vector<T> out(rows.size());
  std::transform(rows.begin(), rows.end(), out.begin(), [&](std::int64_t r) { return values[r]; });
  return out;
}

/// Rows of `raw` that stay, by time, ties by source order.
std::vector<std::int64_t> order_without_duplicates(const RawRatings& raw) {
  std::vector<std::int64_t> order(raw.rows());
  std::iota(order.begin(), order.end(), 0);
  if (!std::is_sorted(raw.time.begin(), raw.time.end()))
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return raw.time[a] < raw.time[b]; });

  std::vector<std::int64_t> user(order.size());
  std::transform(order.begin(), order.end(), user.begin(),
                 [&](std::int64_t r) { return raw.user[r]; });
  const GroupedRows by_user = group_rows(user, raw.users.size());
  std::vector<bool> keep(order.size(), true);
  std::vector<std::int32_t> last_user(raw.items.size(), -1);
  for (std::int32_t u = 0; u < raw.users.size(); ++u) {
    const auto rows = by_user[u];
    for (auto row = rows.rbegin(); row != rows.rend(); ++row) {
      std::int32_t& seen_by = last_user[raw.item[order[*row]]];
      keep[*row] = seen_by != u;
      seen_by = u;
    }
  }
  std::int64_t kept = 0;
  for (std::size_t i = 0; i < order.size(); ++i)
    if (keep[i]) order[kept++] = order[i];
  order.resize(kept);
  return order;
}

Rows with_negatives(const Rows& clicks, const std::vector<Negative>& negatives) {
  Rows out;
  const std::size_t size = clicks.size() + negatives.size();
  out.user.reserve(size), out.item.reserve(size), out.rating.reserve(size), out.time.reserve(size);
  const auto add = [&](std::size_t row, std::int32_t item, float rating) {
    out.user.push_back(clicks.user[row]);
    out.item.push_back(item);
    out.rating.push_back(rating);
    out.time.push_back(clicks.time[row]);
  };
  auto negative = negatives.begin();
  for (std::size_t row = 0; row < clicks.size(); ++row) {
    add(row, clicks.item[row], clicks.rating[row]);
    for (; negative != negatives.end() && negative->row == static_cast<std::int64_t>(row);
         ++negative)
      add(row, negative->item, 0);
  }
  return out;
}

/// Numbers by first appearance; `source[n]` is the source number of n.
std::vector<std::int64_t> renumber(const std::vector<std::int32_t>& values, std::int32_t count,
                                   std::vector<std::int32_t>& source) {
  std::vector<std::int64_t> number(count, -1), out(values.size());
  for (std::size_t row = 0; row < values.size(); ++row) {
    std::int64_t& known = number[values[row]];
    if (known < 0) {
      known = static_cast<std::int64_t>(source.size());
      source.push_back(values[row]);
    }
    out[row] = known;
  }
  return out;
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
void write_history(const fs::path& path, std::span<const std::int64_t> user,
                   const std::vector<std::int64_t>& item, const std::vector<std::int64_t>& time,
                   const std::vector<std::uint8_t>& label, std::int64_t users) {
  const GroupedRows by_user = group_rows(user, users);
  std::vector<std::int64_t> offsets{0}, items, times;
  for (std::int64_t u = 0; u < users; ++u) {
    for (const std::int64_t row : by_user[u]) {
      if (!label[row]) continue;
      items.push_back(item[row]);
      times.push_back(time[row]);
    }
    offsets.push_back(static_cast<std::int64_t>(items.size()));
  }
  write_safetensors(
      path, {{"offsets", view_of(offsets)}, {"item", view_of(items)}, {"time", view_of(times)}});
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

nlohmann::json write_dataset(const fs::path& directory, RawRatings raw,
                             const PrepareConfig& config) {
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

  std::vector<std::int64_t> order = order_without_duplicates(raw);
  const std::int64_t distinct = static_cast<std::int64_t>(order.size());
  const std::int64_t duplicates = raw.rows() - distinct;
  keep_active(config.activity, raw.user, raw.item, raw.users.size(), raw.items.size(), order);
  if (order.empty())
    throw DataError(
        "{}: none of the {} rows is left: a user or item of each has fewer than {} "
        "({}); lower --min-activity",
        where, distinct, config.activity.minimum, config.activity.rule);
  const std::int64_t kept = static_cast<std::int64_t>(order.size());
  Rows rows{picked(raw.user, order), picked(raw.item, order), picked(raw.rating, order),
            picked(raw.time, order)};
  std::int64_t missing_negatives = 0;
  if (raw.kind == RatingKind::click) {
    const std::vector<Negative> negatives =
        draw_negatives(rows.user, rows.item, rows.time, raw.users.size(), raw.items.size(),
                       config.negatives, static_cast<std::uint64_t>(config.seed));
    missing_negatives = static_cast<std::int64_t>(rows.size()) * config.negatives -
                        static_cast<std::int64_t>(negatives.size());
    rows = with_negatives(rows, negatives);
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
      throw DataError(
          "{}: no row is liked: no rating is above {} (the highest is {}); lower --label-above",
          where, above, *std::max_element(rows.rating.begin(), rows.rating.end()));
    throw DataError("{}: no row is liked: every label is 0", where);
  }

  std::vector<std::int32_t> source_user, source_item;
  const std::vector<std::int64_t> user = renumber(rows.user, raw.users.size(), source_user);
  const std::vector<std::int64_t> item = renumber(rows.item, raw.items.size(), source_item);
  const auto users = static_cast<std::int64_t>(source_user.size());
  const auto items = static_cast<std::int64_t>(source_item.size());
  const std::vector<Split> split = split_rows(user, rows.time, users, config.split);
  std::array<std::int64_t, 3> split_rows_count{}, split_liked{};
  for (std::int64_t row = 0; row < count; ++row) {
    ++split_rows_count[static_cast<int>(split[row])];
    split_liked[static_cast<int>(split[row])] += label[row];
  }
  if (split_rows_count[0] == 0)
    throw DataError(
        "{}: no row is left to train on (valid {}, test {}; equal times are never divided): use "
        "--split user-time, smaller --split.valid and --split.test, or later boundaries",
        where, split_rows_count[1], split_rows_count[2]);

  AtomicDirectory out(directory, "dataset.json");
  nlohmann::json files;
  const auto written = [&](const char* name) {
    const fs::path path = out.path() / name;
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(path, error);
    if (error) throw DataError("{}: {}", path.string(), error.message());
    files[name] = {{"bytes", bytes}, {"sha256", sha256_file(path)}};
  };
  write_safetensors(out.path() / "interactions.safetensors", {{"user", view_of(user)},
                                                              {"item", view_of(item)},
                                                              {"time", view_of(rows.time)},
                                                              {"rating", view_of(rows.rating)},
                                                              {"label", view_of(label)},
                                                              {"split", view_of(split)}});
  written("interactions.safetensors");
  write_history(out.path() / "history.safetensors", user, item, rows.time, label, users);
  written("history.safetensors");
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
  return description;
}

}  // namespace graphlora
