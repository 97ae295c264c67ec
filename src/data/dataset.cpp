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
  Columns(const SafetensorsReader& file, std::vector<at::Tensor>& storage)
      : file_(file), storage_(storage) {}

  /// -1: any length.
  template <class T>
  std::span<const T> column(const std::string& name, at::ScalarType dtype,
                            std::int64_t length) const {
    storage_.push_back(file_.tensor(name, dtype, {length}));
    return values_of<T>(storage_.back());
  }

 private:
  const SafetensorsReader& file_;
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

std::string_view piece(std::span<const std::int64_t> offsets, std::span<const std::uint8_t> bytes,
                       std::int64_t i) {
  return {reinterpret_cast<const char*>(bytes.data()) + offsets[i],
          static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
}

void check_strings(const std::string& where, std::span<const std::int64_t> offsets,
                   std::span<const std::uint8_t> bytes) {
  check_offsets(where + "_offsets", offsets, bytes.size());
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const std::string_view text = piece(offsets, bytes, static_cast<std::int64_t>(i));
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

Dataset::Dataset(const fs::path& directory, DatasetCheck check) : directory_(directory) {
  const fs::path json_path = directory / "dataset.json";
  std::error_code failed;
  const bool exists = fs::exists(json_path, failed);
  if (failed) throw DataError("{}: cannot be opened: {}", json_path.string(), failed.message());
  if (!exists)
    throw DataError("{}: is not a dataset (no dataset.json); write one with `graphlora prepare`",
                    directory.string());
  description_ = read_json(json_path);
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
      split_rows_[static_cast<int>(split)] =
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

  map_files();
  if (check == DatasetCheck::shapes) return;
  check_interactions();
  check_history();
  check_names();
}

Dataset::~Dataset() = default;
Dataset::Dataset(Dataset&&) noexcept = default;

void Dataset::map_files() {
  interactions_ = std::make_unique<SafetensorsReader>(directory_ / kFiles[0]);
  const Columns rows_file(*interactions_, storage_);
  user_ = rows_file.column<std::int64_t>("user", at::kLong, -1);
  const std::int64_t count = rows();
  item_ = rows_file.column<std::int64_t>("item", at::kLong, count);
  time_ = rows_file.column<std::int64_t>("time", at::kLong, count);
  rating_ = rows_file.column<float>("rating", at::kFloat, count);
  label_ = rows_file.column<std::uint8_t>("label", at::kByte, count);
  split_ = rows_file.column<std::uint8_t>("split", at::kByte, count);

  const SafetensorsReader user_reader(directory_ / kFiles[2]);
  const Columns users(user_reader, storage_);
  user_id_offsets_ = users.column<std::int64_t>("id_offsets", at::kLong, users_ + 1);
  user_id_bytes_ = users.column<std::uint8_t>("id_bytes", at::kByte, -1);
  const SafetensorsReader item_reader(directory_ / kFiles[3]);
  const Columns items(item_reader, storage_);
  item_id_offsets_ = items.column<std::int64_t>("id_offsets", at::kLong, items_ + 1);
  item_id_bytes_ = items.column<std::uint8_t>("id_bytes", at::kByte, -1);
  title_offsets_ = items.column<std::int64_t>("title_offsets", at::kLong, items_ + 1);
  title_bytes_ = items.column<std::uint8_t>("title_bytes", at::kByte, -1);

  histories_ = std::make_unique<SafetensorsReader>(directory_ / kFiles[1]);
  const Columns history(*histories_, storage_);
  history_offsets_ = history.column<std::int64_t>("offsets", at::kLong, users_ + 1);
  history_item_ = history.column<std::int64_t>("item", at::kLong, -1);
  history_time_ = history.column<std::int64_t>("time", at::kLong, std::ssize(history_item_));
}

void Dataset::check_interactions() const {
  const std::string where = (directory_ / kFiles[0]).string() + ": tensor ";
  check_numbering(where + "user", user_, users_);
  check_numbering(where + "item", item_, items_);
  if (!std::is_sorted(time_.begin(), time_.end()))
    throw DataError("{}time: is not ascending; {}", where, kAdvice);
  if (!std::all_of(rating_.begin(), rating_.end(), [](float r) { return std::isfinite(r); }))
    throw DataError("{}rating: holds a value that is not finite; {}", where, kAdvice);
  if (!std::all_of(label_.begin(), label_.end(), [](std::uint8_t l) { return l <= 1; }))
    throw DataError("{}label: holds a value other than 0 and 1; {}", where, kAdvice);

  std::array<std::int64_t, 3> counts{};
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (split_[row] > 2)
      throw DataError("{}split: row {} holds {}, expected 0 (train), 1 (valid) or 2 (test); {}",
                      where, row, split_[row], kAdvice);
    ++counts[split_[row]];
  }
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    if (const std::int64_t have = counts[static_cast<int>(split)]; have != rows(split))
      throw DataError("{}split: {} {} rows, dataset.json says {}; {}", where, have,
                      to_string(split), rows(split), kAdvice);
  }
}

void Dataset::check_history() const {
  const std::string file = (directory_ / kFiles[1]).string();
  check_offsets(file + ": tensor offsets", history_offsets_, history_item_.size());

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
          "{}: the history of user {} differs from the liked interactions at row {}; {}", file,
          user, row, kAdvice);
  }
  if (liked != std::ssize(history_item_))
    throw DataError("{}: {} entries, but {} liked interactions; {}", file, history_item_.size(),
                    liked, kAdvice);
}

void Dataset::check_names() const {
  const std::string users = (directory_ / kFiles[2]).string() + ": tensor ",
                    items = (directory_ / kFiles[3]).string() + ": tensor ";
  check_strings(users + "id", user_id_offsets_, user_id_bytes_);
  check_strings(items + "id", item_id_offsets_, item_id_bytes_);
  check_strings(items + "title", title_offsets_, title_bytes_);
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

void Dataset::check_row(std::int64_t row) const {
  if (row < 0 || row >= rows())
    throw DataError("{}: row {} of {}; {}", (directory_ / kFiles[0]).string(), row, rows(),
                    kAdvice);
  if (user_[row] < 0 || user_[row] >= users_ || item_[row] < 0 || item_[row] >= items_ ||
      split_[row] > 2)
    throw DataError("{}: row {} holds user {} of {}, item {} of {} and split {}; {}",
                    (directory_ / kFiles[0]).string(), row, user_[row], users_, item_[row], items_,
                    split_[row], kAdvice);
}

std::vector<std::int64_t> Dataset::rows_of(Split split) const {
  std::vector<std::int64_t> out;
  out.reserve(std::clamp<std::int64_t>(rows(split), 0, rows()));
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (this->split(row) != split) continue;
    check_row(row);
    out.push_back(row);
  }
  return out;
}

std::vector<std::int64_t> Dataset::sample(Split split, std::int64_t limit,
                                          std::uint64_t sample_seed) const {
  const auto key = [&](std::int64_t row) {
    return splitmix64(sample_seed * 0x9E3779B97F4A7C15 + static_cast<std::uint64_t>(row));
  };
  // Computing keys anew takes less than keeping them.
  const auto first = [&](std::int64_t a, std::int64_t b) {
    return std::pair(key(a), a) < std::pair(key(b), b);
  };
  std::vector<std::int64_t> out;
  if (limit <= 0) {
    out = rows_of(split);
    std::sort(out.begin(), out.end(), first);
    return out;
  }
  // A heap of the least ones so far, the largest of them on top.
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (this->split(row) != split) continue;
    if (std::ssize(out) == limit) {
      if (!first(row, out.front())) continue;
      std::pop_heap(out.begin(), out.end(), first);
      out.pop_back();
    }
    out.push_back(row);
    std::push_heap(out.begin(), out.end(), first);
  }
  std::sort_heap(out.begin(), out.end(), first);
  for (const std::int64_t row : out) check_row(row);
  return out;
}

std::span<const std::int64_t> Dataset::liked_before(std::int64_t user, std::int64_t time,
                                                    std::int64_t limit) const {
  const auto bad = [&] {
    return DataError("{}: the history of user {} leads nowhere; {}",
                     (directory_ / kFiles[1]).string(), user, kAdvice);
  };
  if (user < 0 || user >= users_) throw bad();
  const std::int64_t begin = history_offsets_[user], end = history_offsets_[user + 1];
  if (begin < 0 || begin > end || end > std::ssize(history_item_)) throw bad();
  const auto first = history_time_.begin() + begin;
  const std::int64_t before = std::lower_bound(first, history_time_.begin() + end, time) - first;
  const std::int64_t count = std::clamp<std::int64_t>(limit, 0, before);
  const auto liked = history_item_.subspan(begin + before - count, count);
  for (const std::int64_t item : liked)
    if (item < 0 || item >= items_) throw bad();
  return liked;
}

std::string_view Dataset::string_at(const char* what, std::span<const std::int64_t> offsets,
                                    std::span<const std::uint8_t> bytes, std::int64_t i) const {
  if (i < 0 || i + 1 >= std::ssize(offsets) || offsets[i] < 0 || offsets[i] > offsets[i + 1] ||
      offsets[i + 1] > std::ssize(bytes))
    throw DataError("{}: the {} {} leads nowhere; {}", directory_.string(), what, i, kAdvice);
  return piece(offsets, bytes, i);
}

std::string_view Dataset::title(std::int64_t item) const {
  return string_at("title of item", title_offsets_, title_bytes_, item);
}

std::string_view Dataset::user_id(std::int64_t user) const {
  return string_at("id of user", user_id_offsets_, user_id_bytes_, user);
}

std::string_view Dataset::item_id(std::int64_t item) const {
  return string_at("id of item", item_id_offsets_, item_id_bytes_, item);
}

bool Dataset::warm(std::int64_t row) const {
  if (user_in_train_.empty()) {
    std::vector<bool> users(users_), items(items_);
    for (std::int64_t r = 0; r < rows(); ++r) {
      if (split(r) != Split::train) continue;
      check_row(r);
      users[user_[r]] = items[item_[r]] = true;
    }
    release_rows();
    user_in_train_ = std::move(users);
    item_in_train_ = std::move(items);
  }
  return user_in_train_[user_[row]] && item_in_train_[item_[row]];
}

void Dataset::release_rows() const {
  interactions_->release();
  histories_->release();
}

}  // namespace graphlora
