#include "graph/cut.hpp"

#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kMaxGroups = std::numeric_limits<std::uint16_t>::max();

// First time of each window. `for_each_time(visit)` gives the training rows' times, ascending, of
// which there are `rows`.
template <class ForEachTime>
std::vector<std::int64_t> starts_of_windows(std::int64_t rows, std::int64_t groups,
                                            const ForEachTime& for_each_time) {
  std::vector<std::int64_t> starts;
  std::int64_t window = 1, row = 0, before = 0, run_time = 0;  // the run of equal times at hand
  // Ends the run at `after`, where `next` follows. A boundary that ideally stood inside it goes to
  // its nearer end.
  const auto end_run = [&](std::int64_t after, std::int64_t next) {
    for (; window < groups; ++window) {
      const std::int64_t ideal =
          std::min(rows - 1, rows / groups * window + rows % groups * window / groups);
      if (ideal >= after) return;
      const bool at_begin = ideal - before <= after - ideal;
      if (!at_begin && after == rows) continue;
      const std::int64_t start = at_begin ? run_time : next;
      if (start > starts.back()) starts.push_back(start);
    }
  };
  for_each_time([&](std::int64_t time) {
    if (row == 0) {
      starts.push_back(time);
      run_time = time;
    } else if (time != run_time) {
      end_run(row, time);
      before = row;
      run_time = time;
    }
    ++row;
  });
  if (rows == 0) return {0};
  end_run(rows, run_time);
  return starts;
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
    : CutRule(std::span<const std::int64_t>{}, kind, groups) {
  if (kind != CutKind::window) return;
  const auto in_train = [&](std::int64_t row) { return dataset.split(row) == Split::train; };
  std::int64_t rows = 0;
  for (std::int64_t row = 0; row < dataset.rows(); ++row) rows += in_train(row);
  window_starts_ = starts_of_windows(rows, groups, [&](const auto& visit) {
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      if (in_train(row)) visit(dataset.time()[row]);
    }
  });
  groups_ = static_cast<int>(window_starts_.size());
}

CutRule::CutRule(std::span<const std::int64_t> training_times, CutKind kind, std::int64_t groups)
    : kind_(kind) {
  if (groups < 1 || groups > kMaxGroups) {
    throw ConfigError("--graph.groups: {} is out of range; give 1 to {}", groups, kMaxGroups);
  }
  if (kind == CutKind::fold) groups_ = static_cast<int>(groups);
  if (kind != CutKind::window) return;
  window_starts_ = starts_of_windows(static_cast<std::int64_t>(training_times.size()), groups,
                                     [&](const auto& visit) {
                                       for (const std::int64_t time : training_times) visit(time);
                                     });
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
