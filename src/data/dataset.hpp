// A prepared dataset on disk (docs: design, "Files") and its read-only view in memory.
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

enum class Split : std::uint8_t { train = 0, valid = 1, test = 2 };
/// "train", "valid", "test". Throws ConfigError.
Split parse_split(const std::string& name);
const char* to_string(Split split);

/// Memory-mapped; every array is checked on opening (ranges, order, lengths, UTF-8 of titles).
class Dataset {
 public:
  /// Throws DataError.
  explicit Dataset(const std::filesystem::path& directory);

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

  std::int64_t user_node(std::int64_t row) const { return user_[row]; }
  std::int64_t item_node(std::int64_t row) const { return users_ + item_[row]; }

  /// Rows of a split, ascending.
  std::vector<std::int64_t> rows_of(Split split) const;
  /// The `limit` rows of the split with the least splitmix64(sample_seed·0x9E3779B97F4A7C15 + row),
  /// in that order; limit <= 0: all of them.
  std::vector<std::int64_t> sample(Split split, std::int64_t limit,
                                   std::uint64_t sample_seed) const;

  /// Items (0…V-1) the user liked strictly before `time`, oldest first, the last `limit` of them.
  std::span<const std::int64_t> liked_before(std::int64_t user, std::int64_t time,
                                             std::int64_t limit) const;

  std::string_view title(std::int64_t item) const;    ///< UTF-8
  std::string_view user_id(std::int64_t user) const;  ///< as in the source files
  std::string_view item_id(std::int64_t item) const;

  /// Whether user and item of a row both occur in train.
  bool warm(std::int64_t row) const;

 private:
  /// `split_rows`: train, valid and test rows there must be.
  void read_interactions(const std::array<std::int64_t, 3>& split_rows);
  void read_history();
  void read_names();

  std::filesystem::path directory_;
  nlohmann::json description_;
  std::string fingerprint_;
  std::int64_t users_ = 0, items_ = 0;
  std::span<const std::int64_t> user_, item_, time_;
  std::span<const float> rating_;
  std::span<const std::uint8_t> label_, split_;
  std::span<const std::int64_t> history_offsets_, history_item_, history_time_;
  std::span<const std::int64_t> user_id_offsets_, item_id_offsets_, title_offsets_;
  std::span<const std::uint8_t> user_id_bytes_, item_id_bytes_, title_bytes_;
  std::vector<bool> user_in_train_, item_in_train_;
  std::vector<at::Tensor> storage_;  // keep the maps alive
};

}  // namespace graphlora
