// A prepared dataset on disk (docs/formats.md) and its read-only view in memory.
// Shapes: K interactions, U users, V items. Node ids: users 0…U-1, items U…U+V-1.
#pragma once
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace graphlora {

class SafetensorsReader;

enum class Split : std::uint8_t { train = 0, valid = 1, test = 2 };
/// "train", "valid", "test". Throws ConfigError.
Split parse_split(const std::string& name);
const char* to_string(Split split);

/// How much of a dataset is looked at when it is opened. complete: all of every array (ranges,
/// order, lengths, UTF-8 of titles). shapes: dataset.json, types and lengths, without touching the
/// arrays; what addresses memory is then checked where it is used (check_row).
enum class DatasetCheck : std::uint8_t { shapes, complete };

/// Memory-mapped. The ranks of a job open it by its shapes once one of them has checked all of it
/// (Workspace).
class Dataset {
 public:
  /// Throws DataError.
  explicit Dataset(const std::filesystem::path& directory,
                   DatasetCheck check = DatasetCheck::complete);

  ~Dataset();
  Dataset(Dataset&&) noexcept;

  /// Compares the files' checksums with dataset.json's: finds changes that leave everything
  /// plausible. Throws DataError.
  void verify() const;

  const std::filesystem::path& directory() const { return directory_; }
  const nlohmann::json& description() const { return description_; }  ///< dataset.json
  const std::string& fingerprint() const { return fingerprint_; }
  bool user_time_split() const;

  std::int64_t users() const { return users_; }
  std::int64_t items() const { return items_; }
  std::int64_t nodes() const { return users_ + items_; }
  std::int64_t rows() const { return static_cast<std::int64_t>(user_.size()); }

  // One entry per interaction, sorted by time, ties by source order.
  std::span<const std::int64_t> user() const { return user_; }  ///< 0…U-1
  std::span<const std::int64_t> item() const { return item_; }  ///< 0…V-1
  std::span<const float> rating() const { return rating_; }
  std::span<const std::uint8_t> label() const { return label_; }  ///< 1: liked
  std::span<const std::int64_t> time() const { return time_; }
  Split split(std::int64_t row) const { return static_cast<Split>(split_[row]); }
  /// Rows of a split by dataset.json.
  std::int64_t rows(Split split) const { return split_rows_[static_cast<int>(split)]; }

  std::int64_t user_node(std::int64_t row) const { return user_[row]; }
  std::int64_t item_node(std::int64_t row) const { return users_ + item_[row]; }

  /// Throws DataError unless row, user, item and split are in range.
  void check_row(std::int64_t row) const;

  /// Rows of a split, ascending; checked (check_row).
  std::vector<std::int64_t> rows_of(Split split) const;
  /// The `limit` rows of the split with the least splitmix64(sample_seed·0x9E3779B97F4A7C15 + row),
  /// in that order; limit <= 0: all of them. Checked (check_row). One pass over the splits; memory
  /// for the result only.
  std::vector<std::int64_t> sample(Split split, std::int64_t limit,
                                   std::uint64_t sample_seed) const;

  /// Items (0…V-1) the user liked strictly before `time`, oldest first, the last `limit` of them.
  /// This and the strings below throw DataError where the stored offsets lead nowhere.
  std::span<const std::int64_t> liked_before(std::int64_t user, std::int64_t time,
                                             std::int64_t limit) const;

  std::string_view title(std::int64_t item) const;    ///< UTF-8
  std::string_view user_id(std::int64_t user) const;  ///< as in the source files
  std::string_view item_id(std::int64_t item) const;

  /// Whether user and item of a row both occur in train. The first call passes over all rows; not
  /// for two threads at once.
  bool warm(std::int64_t row) const;

  /// Unmaps the pages of interactions and histories that were touched, so that they don't stay part
  /// of this process; they are read again (from the page cache) where they are needed. A few rows
  /// may map a lot: where the cache holds large pages, 2 MiB each.
  void release_rows() const;

 private:
  void map_files();
  void check_interactions() const;
  void check_history() const;
  void check_names() const;
  std::string_view string_at(const char* what, std::span<const std::int64_t> offsets,
                             std::span<const std::uint8_t> bytes, std::int64_t i) const;

  std::filesystem::path directory_;
  nlohmann::json description_;
  std::string fingerprint_;
  std::int64_t users_ = 0, items_ = 0;
  std::array<std::int64_t, 3> split_rows_{};
  std::span<const std::int64_t> user_, item_, time_;
  std::span<const float> rating_;
  std::span<const std::uint8_t> label_, split_;
  std::span<const std::int64_t> history_offsets_, history_item_, history_time_;
  std::span<const std::int64_t> user_id_offsets_, item_id_offsets_, title_offsets_;
  std::span<const std::uint8_t> user_id_bytes_, item_id_bytes_, title_bytes_;
  mutable std::vector<bool> user_in_train_, item_in_train_;  // of warm()
  std::unique_ptr<SafetensorsReader> interactions_, histories_;
  std::vector<at::Tensor> storage_;  // keep the maps alive
};

}  // namespace graphlora
