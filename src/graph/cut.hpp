// Label-safe cuts: which edges a batch must not see (docs/architecture.md).
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.hpp"

namespace graphlora {

enum class CutKind { none, window, fold };
CutKind parse_cut(const std::string& name);  ///< Throws ConfigError.
const char* to_string(CutKind kind);

/// What a batch sees of the graph: the groups [drop_begin, drop_end) of every row are left out.
struct CutView {
  int drop_begin = 0, drop_end = 0;
  bool operator==(const CutView&) const = default;
};

/// Gives each training row its group (window or fold) and each batch group its view of the graph.
class CutRule {
 public:
  /// window: training time divided into about equal numbers of rows, never dividing equal
  /// timestamps (fewer groups than asked if times are few). fold: splitmix64(user·2³² + item) mod
  /// groups. none: one group. Throws ConfigError unless 1 <= groups <= 65535.
  CutRule(const Dataset& dataset, CutKind kind, std::int64_t groups);
  /// The same from the ascending times of the training rows (only `window` reads them).
  CutRule(std::span<const std::int64_t> training_times, CutKind kind, std::int64_t groups);
  /// From a stored description (partition.json). Throws DataError.
  static CutRule from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;

  CutKind kind() const { return kind_; }
  int groups() const { return groups_; }
  /// Group of a training row; `item` is the item's index 0…V-1.
  std::uint16_t group(std::int64_t user, std::int64_t item, std::int64_t time) const;
  /// Graph of a training batch of this group. window w drops [w, G), fold f drops [f, f+1), none
  /// drops nothing.
  CutView training_view(int group) const;
  /// All training positives: what valid, test and export see.
  CutView full_view() const { return {groups_, groups_}; }
  bool operator==(const CutRule&) const = default;

 private:
  CutRule() = default;
  CutKind kind_ = CutKind::none;
  int groups_ = 1;
  // First time of each window, ascending; the first is the least training time. Empty for others.
  std::vector<std::int64_t> window_starts_;
};

}  // namespace graphlora
