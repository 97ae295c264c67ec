// From raw ratings to a dataset directory: duplicates, labels, splits, histories.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "data/activity.hpp"
#include "data/raw_ratings.hpp"
#include "data/split.hpp"

namespace graphlora {

/// What the errors of write_dataset advise: each command has options of its own.
struct DatasetAdvice {
  std::string none_liked = "lower --label-above";
  std::string none_to_train =
      "use --split user-time, smaller --split.valid and --split.test, or later boundaries";
};

struct PrepareConfig {
  SplitConfig split = {};
  double label_above = 3;      ///< a rating above it is liked (RatingKind::rating)
  std::int64_t negatives = 0;  ///< per click (RatingKind::click)
  std::int64_t seed = 1;
  bool progress = false;
  ActivityConfig activity = {};  ///< who stays; counted without duplicates, before negatives
  DatasetAdvice advice = {};
};

/// The rows as they are written, by time; users and items by their number in RawRatings.
struct PreparedRows {
  std::span<const std::int32_t> user, item;
  std::span<const std::uint8_t> label;
  std::span<const Split> split;
};

/// What dataset.json holds besides the usual: an object, or nothing.
using DescribeRows = std::function<nlohmann::json(const PreparedRows&)>;

/// Version of the directory's format that this program writes and reads.
inline constexpr int kDatasetVersion = 1;

/// Writes the dataset directory atomically and returns dataset.json.
///
/// Rows are sorted by time, ties by source order; of rows of one (user, item) the last stays. Users
/// and items are numbered by first appearance, a missing title is the item's id. Throws ConfigError
/// (split, negatives) and DataError (no rows, 2^32 or more, none of an active user and item,
/// nothing liked, nothing left to train on, unwritable).
///
///     RawRatings raw;
///     raw.add("u1", "toy-story", 5, 100);
///     raw.set_title("toy-story", "Toy Story (1995)");
///     write_dataset(directory, std::move(raw), {.split = {.rule = "user-time"}});
nlohmann::json write_dataset(const std::filesystem::path& directory, RawRatings raw,
                             const PrepareConfig& config, const DescribeRows& describe = {});

/// Fingerprint that belongs to a description: changes with the content of any file, its format
/// version and its split rule.
std::string dataset_fingerprint(const nlohmann::json& description);

}  // namespace graphlora
