#include "graph/cut.hpp"

#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kMaxGroups = std::numeric_limits<std::uint16_t>::max();

std::vector<std::int64_t> training_times(const Dataset& dataset) {
  std::vector<std::int64_t> times;
  for (const std::int64_t row : dataset.rows_of(Split::train)) times.push_back(dataset.time()[row]);
  return times;
}

}  // namespace

CutKind parse_cut(const std::string& name) {
  for (const CutKind kind : {CutKind::none, CutKind::window, CutKind::fold}) {
    if (name == to_string(kind)) return kind;
  }
  throw ConfigError("--graph.cut: unknown cut \"{}\"; choose window, fold or none", name);
}

const char* to_string(CutKind kind) {
  switch (kind) {
    case CutKind::window:
      return "window";
    case CutKind::fold:
      return "fold";
    case CutKind::none:
      break;
  }
  return "none";
}

CutRule::CutRule(const Dataset& dataset, CutKind kind, std::int64_t groups)
    : CutRule(kind == CutKind::window ? training_times(dataset) : std::vector<std::int64_t>{}, kind,
              groups) {}

CutRule::CutRule(std::span<const std::int64_t> training_times, CutKind kind, std::int64_t groups)
    : kind_(kind) {
  if (groups < 1 || groups > kMaxGroups) {
    throw ConfigError("--graph.groups: {} is out of range; give 1 to {}", groups, kMaxGroups);
  }
  if (kind == CutKind::none) return;
  if (kind == CutKind::fold) {
    groups_ = static_cast<int>(groups);
    return;
  }
  const auto rows = static_cast<std::int64_t>(training_times.size());
  window_starts_.push_back(rows > 0 ? training_times[0] : 0);
  for (std::int64_t w = 1; w < groups && rows > 0; ++w) {
    // Of the two changes of time around the ideal boundary, the nearer one.
    const std::int64_t ideal = std::min(rows - 1, rows / groups * w + rows % groups * w / groups);
    const auto run = std::equal_range(training_times.begin(), training_times.end(),
                                      training_times[static_cast<std::size_t>(ideal)]);
    const std::int64_t before = run.first - training_times.begin();
    const std::int64_t after = run.second - training_times.begin();
    const std::int64_t boundary = ideal - before <= after - ideal ? before : after;
    if (boundary == rows) continue;
    const std::int64_t start = training_times[static_cast<std::size_t>(boundary)];
    if (start > window_starts_.back()) window_starts_.push_back(start);
  }
  groups_ = static_cast<int>(window_starts_.size());
}

CutRule CutRule::from_json(const nlohmann::json& json) {
  CutRule rule;
  try {
    rule.kind_ = parse_cut(json.at("kind").get<std::string>());
    const auto groups = json.at("groups").get<std::int64_t>();
    if (groups < 1 || groups > kMaxGroups) throw DataError("cut: {} groups", groups);
    rule.groups_ = static_cast<int>(groups);
    if (rule.kind_ == CutKind::window) {
      rule.window_starts_ = json.at("window_starts").get<std::vector<std::int64_t>>();
      if (static_cast<std::int64_t>(rule.window_starts_.size()) != groups ||
          std::adjacent_find(rule.window_starts_.begin(), rule.window_starts_.end(),
                             std::greater_equal<>()) != rule.window_starts_.end()) {
        throw DataError("cut: window_starts is not one ascending time per group");
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError("cut: {}", error.what());
  } catch (const ConfigError&) {
    throw DataError("cut: unknown kind");
  }
  return rule;
}

nlohmann::json CutRule::to_json() const {
  nlohmann::json json{{"kind", to_string(kind_)}, {"groups", groups_}};
  if (kind_ == CutKind::window) json["window_starts"] = window_starts_;
  return json;
}

std::uint16_t CutRule::group(std::int64_t user, std::int64_t item, std::int64_t time) const {
  switch (kind_) {
    case CutKind::window: {
      const auto after = std::upper_bound(window_starts_.begin(), window_starts_.end(), time);
      return static_cast<std::uint16_t>(
          std::max<std::ptrdiff_t>(0, after - window_starts_.begin() - 1));
    }
    case CutKind::fold: {
      const auto key = (static_cast<std::uint64_t>(user) << 32) + static_cast<std::uint64_t>(item);
      return static_cast<std::uint16_t>(splitmix64(key) % static_cast<std::uint64_t>(groups_));
    }
    case CutKind::none:
      break;
  }
  return 0;
}

CutView CutRule::training_view(int group) const {
  switch (kind_) {
    case CutKind::window:
      return {group, groups_};
    case CutKind::fold:
      return {group, group + 1};
    case CutKind::none:
      break;
  }
  return full_view();
}

}  // namespace graphlora
