// Ratings as the readers hand them over: source ids interned, rows in source order.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/readers/bad_lines.hpp"
#include "data/year_range.hpp"

namespace graphlora {

/// Source ids and their numbers 0, 1, … in order of first use: one string of all ids, and a hash
/// table of numbers with linear probing.
class IdTable {
 public:
  /// Number of `id`, new if it was not known. Throws DataError beyond 2^31-1 ids.
  std::int32_t intern(std::string_view id);
  /// The same for many ids: sooner done, since the memory that each needs is fetched ahead.
  void intern(std::span<const std::string_view> ids, std::span<std::int32_t> numbers);
  /// Number of `id`, or -1.
  std::int32_t find(std::string_view id) const;
  /// Holds until the next intern().
  std::string_view operator[](std::int32_t number) const {
    return std::string_view(bytes_).substr(begin_[number], begin_[number + 1] - begin_[number]);
  }
  std::int32_t size() const { return static_cast<std::int32_t>(begin_.size()) - 1; }

 private:
  struct Slot {
    std::uint32_t tag = 0;     // upper half of the id's hash; the lower half says where it stands
    std::int32_t number = -1;  // -1: free
  };
  /// Place of the id's slot, or of the free one where it belongs.
  std::size_t slot_of(std::string_view id, std::size_t hash) const;
  void grow();
  /// Number of `id`, whose hash is `hash`.
  std::int32_t intern(std::string_view id, std::size_t hash);

  std::string bytes_;
  std::vector<std::size_t> begin_{0};
  std::vector<Slot> slots_;  // a power of two, at most half of them taken
};

/// What a rating stands for.
enum class RatingKind {
  rating,  ///< liked if above a threshold
  label,   ///< 0 or 1, as given
  click    ///< every row is a positive
};

/// Some rows, of any years.
struct RowColumns {
  std::vector<std::string_view> user, item;
  std::vector<float> rating;
  std::vector<std::int64_t> time;

  void clear() { user.clear(), item.clear(), rating.clear(), time.clear(); }
};

struct RawRatings {
  RatingKind kind = RatingKind::rating;
  IdTable users, items;
  // One entry per row, in source order.
  std::vector<std::int32_t> user, item;
  std::vector<float> rating;  ///< the label (0, 1) where kind is label, 1 where it is click
  std::vector<std::int64_t> time;
  std::vector<std::string> titles;  ///< by item, UTF-8, shorter than `items` or empty: no title
  std::filesystem::path input;      ///< file of the rows, for messages; empty: none
  nlohmann::json sources = nlohmann::json::array();  ///< {"file","bytes","sha256"} of each file

  BadLines bad_lines;              ///< what was passed over
  YearRange years = {};            ///< of the rows that add() keeps
  std::int64_t outside_years = 0;  ///< rows that it did not keep

  std::int64_t rows() const { return static_cast<std::int64_t>(user.size()); }
  /// Appends a row, unless it is of other years.
  void add(std::string_view user_id, std::string_view item_id, float value, std::int64_t when);
  /// Appends the rows, but for those of other years, which it removes from `rows`.
  void add(RowColumns& rows);
  /// Whether the item is known and has no title yet: whether it is worth cleaning one.
  bool lacks_title(std::string_view item_id) const;
  /// Gives a known item its title, unless it has one; other ids are passed over.
  void set_title(std::string_view item_id, std::string title);
};

}  // namespace graphlora
