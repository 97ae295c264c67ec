#include "data/dataset.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"
#include "core/safetensors.hpp"
#include "core/tensor_view.hpp"
#include "data/dataset_writer.hpp"
#include "data/text.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

constexpr const char* kAdvice = "prepare the data again";
constexpr const char* kFiles[] = {"interactions.safetensors", "history.safetensors",
                                  "users.safetensors", "items.safetensors"};

/// A file's tensors, kept alive by `storage`.
class Columns {
 public:
  Columns(const fs::path& path, std::vector<at::Tensor>& storage)
      : file_(path), storage_(storage) {}

  /// -1: any length.
  template <class T>
  std::span<const T> column(const std::string& name, at::ScalarType dtype, std::int64_t length) {
    storage_.push_back(file_.tensor(name, dtype, {length}));
    return values_of<T>(storage_.back());
  }
  std::string path() const { return file_.path().string(); }

 private:
  SafetensorsReader file_;
  std::vector<at::Tensor>& storage_;
};

/// Offsets into `size` entries: from 0, never falling, to the end.
void check_offsets(const std::string& where, std::span<const std::int64_t> offsets,
                   std::size_t size) {
  const bool good = !offsets.empty() && offsets.front() == 0 &&
                    offsets.back() == static_cast<std::int64_t>(size) &&
                    std::is_sorted(offsets.begin(), offsets.end());
  if (!good) throw DataError("{}: does not rise from 0 to {}; {}", where, size, kAdvice);
}

/// Numbers 0…count-1, each first appearing in order.
void check_numbering(const std::string& where, std::span<const std::int64_t> numbers,
                     std::int64_t count) {
  std::int64_t next = 0;
  for (std::size_t row = 0; row < numbers.size(); ++row) {
    if (numbers[row] < 0 || numbers[row] > next || numbers[row] >= count)
      throw DataError("{}: row {} holds {}, expected 0 to {} (numbered by first appearance); {}",
                      where, row, numbers[row], std::min(next, count - 1), kAdvice);
    next += numbers[row] == next;
  }
  if (next != count) throw DataError("{}: {} of {} numbers occur; {}", where, next, count, kAdvice);
}

std::string_view string_at(std::span<const std::int64_t> offsets,
                           std::span<const std::uint8_t> bytes, std::int64_t i) {
  return {reinterpret_cast<const char*>(bytes.data()) + offsets[i],
          static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
}

void check_strings(const std::string& where, std::span<const std::int64_t> offsets,
                   std::span<const std::uint8_t> bytes) {
  check_offsets(where + "_offsets", offsets, bytes.size());
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const std::string_view text = string_at(offsets, bytes, static_cast<std::int64_t>(i));
    if (text.empty() || !is_utf8(text))
      throw DataError("{}_bytes: entry {} is {}; {}", where, i,
                      text.empty() ? "empty" : "not valid UTF-8", kAdvice);
  }
}

std::int64_t count_of(const nlohmann::json& description, const char* key) {
  const auto value = description.at(key).get<std::int64_t>();
  if (value < 1 || value > std::numeric_limits<std::int32_t>::max())
    throw DataError("\"{}\" is {}, expected 1 to 2^31-1", key, value);
  return value;
}

}  // namespace

Split parse_split(const std::string& name) {
  for (const Split split : {Split::train, Split::valid, Split::test})
    if (name == to_string(split)) return split;
  throw ConfigError("'{}' is no split: choose train, valid or test", name);
}

const char* to_string(Split split) {
  switch (split) {
    case Split::train:
      return "train";
    case Split::valid:
      return "valid";
    case Split::test:
      return "test";
  }
  return "unknown";
}

Dataset::Dataset(const fs::path& directory) : directory_(directory) {
  const fs::path json_path = directory / "dataset.json";
  std::error_code failed;
  const bool exists = fs::exists(json_path, failed);
  if (failed) throw DataError("{}: cannot be opened: {}", json_path.string(), failed.message());
  if (!exists)
    throw DataError("{}: is not a dataset (no dataset.json); write one with `graphlora prepare`",
                    directory.string());
  description_ = read_json(json_path);
  std::array<std::int64_t, 3> split_rows{};
  try {
    const int version = description_.at("format_version").get<int>();
    if (version != kDatasetVersion)
      throw DataError("format version {}, this program reads version {}; {}", version,
                      kDatasetVersion, kAdvice);
    users_ = count_of(description_, "users");
    items_ = count_of(description_, "items");
    fingerprint_ = description_.at("fingerprint").get<std::string>();
    description_.at("split").at("rule").get<std::string>();
    if (fingerprint_ != dataset_fingerprint(description_))
      throw DataError("the fingerprint does not match the description (edited by hand?); {}",
                      kAdvice);
    for (const Split split : {Split::train, Split::valid, Split::test})
      split_rows[static_cast<int>(split)] =
          description_.at("rows").at(to_string(split)).get<std::int64_t>();
    for (const char* name : kFiles) {
      const auto& about = description_.at("files").at(name);
      const auto bytes = about.at("bytes").get<std::uint64_t>();
      about.at("sha256").get<std::string>();
      std::error_code error;
      const auto size = fs::file_size(directory / name, error);
      if (error) throw DataError("{} is missing ({}); {}", name, error.message(), kAdvice);
      if (size != bytes)
        throw DataError("{} has {} bytes, expected {} (another dataset's, or truncated); {}", name,
                        size, bytes, kAdvice);
    }
  } catch (const nlohmann::json::exception& e) {
    throw DataError("{}: not a dataset description ({}); {}", json_path.string(), e.what(),
                    kAdvice);
  } catch (const DataError& e) {
    throw DataError("{}: {}", json_path.string(), e.what());
  }

  read_interactions(split_rows);
  read_history();
  read_names();
}

void Dataset::read_interactions(const std::array<std::int64_t, 3>& split_rows) {
  Columns file(directory_ / "interactions.safetensors", storage_);
  const std::string where = file.path() + ": tensor ";
  user_ = file.column<std::int64_t>("user", at::kLong, -1);
  const std::int64_t count = rows();
  item_ = file.column<std::int64_t>("item", at::kLong, count);
  time_ = file.column<std::int64_t>("time", at::kLong, count);
  rating_ = file.column<float>("rating", at::kFloat, count);
  label_ = file.column<std::uint8_t>("label", at::kByte, count);
  split_ = file.column<std::uint8_t>("split", at::kByte, count);

  check_numbering(where + "user", user_, users_);
  check_numbering(where + "item", item_, items_);
  if (!std::is_sorted(time_.begin(), time_.end()))
    throw DataError("{}time: is not ascending; {}", where, kAdvice);
  if (!std::all_of(rating_.begin(), rating_.end(), [](float r) { return std::isfinite(r); }))
    throw DataError("{}rating: holds a value that is not finite; {}", where, kAdvice);
  if (!std::all_of(label_.begin(), label_.end(), [](std::uint8_t l) { return l <= 1; }))
    throw DataError("{}label: holds a value other than 0 and 1; {}", where, kAdvice);

  std::array<std::int64_t, 3> counts{};
  user_in_train_.assign(users_, false);
  item_in_train_.assign(items_, false);
  for (std::int64_t row = 0; row < count; ++row) {
    if (split_[row] > 2)
      throw DataError("{}split: row {} holds {}, expected 0 (train), 1 (valid) or 2 (test); {}",
                      where, row, split_[row], kAdvice);
    ++counts[split_[row]];
    if (split_[row] != 0) continue;
    user_in_train_[user_[row]] = true;
    item_in_train_[item_[row]] = true;
  }
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    const std::int64_t expected = split_rows[static_cast<int>(split)];
    if (counts[static_cast<int>(split)] != expected)
      throw DataError("{}split: {} {} rows, dataset.json says {}; {}", where,
                      counts[static_cast<int>(split)], to_string(split), expected, kAdvice);
  }
}

void Dataset::read_history() {
  Columns file(directory_ / "history.safetensors", storage_);
  history_offsets_ = file.column<std::int64_t>("offsets", at::kLong, users_ + 1);
  history_item_ = file.column<std::int64_t>("item", at::kLong, -1);
  history_time_ =
      file.column<std::int64_t>("time", at::kLong, static_cast<std::int64_t>(history_item_.size()));
  check_offsets(file.path() + ": tensor offsets", history_offsets_, history_item_.size());

  // Histories repeat the liked interactions, so a walk over those checks all of it.
  std::vector<std::int64_t> next(history_offsets_.begin(), history_offsets_.end() - 1);
  std::int64_t liked = 0;
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (!label_[row]) continue;
    ++liked;
    const std::int64_t user = user_[row], at = next[user]++;
    if (at >= history_offsets_[user + 1] || history_item_[at] != item_[row] ||
        history_time_[at] != time_[row])
      throw DataError(
          "{}: the history of user {} differs from the liked interactions at row {}; {}",
          file.path(), user, row, kAdvice);
  }
  if (liked != static_cast<std::int64_t>(history_item_.size()))
    throw DataError("{}: {} entries, but {} liked interactions; {}", file.path(),
                    history_item_.size(), liked, kAdvice);
}

void Dataset::read_names() {
  Columns users(directory_ / "users.safetensors", storage_);
  user_id_offsets_ = users.column<std::int64_t>("id_offsets", at::kLong, users_ + 1);
  user_id_bytes_ = users.column<std::uint8_t>("id_bytes", at::kByte, -1);
  check_strings(users.path() + ": tensor id", user_id_offsets_, user_id_bytes_);
  Columns items(directory_ / "items.safetensors", storage_);
  item_id_offsets_ = items.column<std::int64_t>("id_offsets", at::kLong, items_ + 1);
  item_id_bytes_ = items.column<std::uint8_t>("id_bytes", at::kByte, -1);
  check_strings(items.path() + ": tensor id", item_id_offsets_, item_id_bytes_);
  title_offsets_ = items.column<std::int64_t>("title_offsets", at::kLong, items_ + 1);
  title_bytes_ = items.column<std::uint8_t>("title_bytes", at::kByte, -1);
  check_strings(items.path() + ": tensor title", title_offsets_, title_bytes_);
}

void Dataset::verify() const {
  for (const char* name : kFiles) {
    const fs::path path = directory_ / name;
    if (sha256_file(path) != description_["files"][name]["sha256"].get<std::string>())
      throw DataError("{}: its checksum is not that of dataset.json: the file was changed; {}",
                      path.string(), kAdvice);
  }
}

bool Dataset::user_time_split() const {
  return description_.at("split").at("rule").get<std::string>() == "user-time";
}

std::vector<std::int64_t> Dataset::rows_of(Split split) const {
  std::vector<std::int64_t> out;
  for (std::int64_t row = 0; row < rows(); ++row)
    if (this->split(row) == split) out.push_back(row);
  return out;
}

std::vector<std::int64_t> Dataset::sample(Split split, std::int64_t limit,
                                          std::uint64_t sample_seed) const {
  std::vector<std::pair<std::uint64_t, std::int64_t>> keyed;
  for (const std::int64_t row : rows_of(split))
    keyed.emplace_back(
        splitmix64(sample_seed * 0x9E3779B97F4A7C15 + static_cast<std::uint64_t>(row)), row);
  const std::size_t count =
      limit <= 0 ? keyed.size() : std::min(keyed.size(), static_cast<std::size_t>(limit));
  std::partial_sort(keyed.begin(), keyed.begin() + static_cast<std::ptrdiff_t>(count), keyed.end());
  std::vector<std::int64_t> out(count);
  std::transform(keyed.begin(), keyed.begin() + static_cast<std::ptrdiff_t>(count), out.begin(),
                 [](const auto& key_and_row) { return key_and_row.second; });
  return out;
}

std::span<const std::int64_t> Dataset::liked_before(std::int64_t user, std::int64_t time,
                                                    std::int64_t limit) const {
  const auto first = history_time_.begin() + history_offsets_[user];
  const auto last = history_time_.begin() + history_offsets_[user + 1];
  const std::int64_t before = std::lower_bound(first, last, time) - first;
  const std::int64_t count = std::clamp<std::int64_t>(limit, 0, before);
  return history_item_.subspan(history_offsets_[user] + before - count, count);
}

std::string_view Dataset::title(std::int64_t item) const {
  return string_at(title_offsets_, title_bytes_, item);
}

std::string_view Dataset::user_id(std::int64_t user) const {
  return string_at(user_id_offsets_, user_id_bytes_, user);
}

std::string_view Dataset::item_id(std::int64_t item) const {
  return string_at(item_id_offsets_, item_id_bytes_, item);
}

bool Dataset::warm(std::int64_t row) const {
  return user_in_train_[user_[row]] && item_in_train_[item_[row]];
}

}  // namespace graphlora
