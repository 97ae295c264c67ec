#include "dist/flight_report.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <set>
#include <tuple>

#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostRanks = 1 << 20;
constexpr std::size_t kShownOperations = 20;

struct Operation {
  std::int64_t sequence = 0, axis_sequence = 0, bytes = 0, step = -1;
  std::size_t axis = 0;
  std::string name, traffic;
  std::vector<int> peers;
  bool complete = false;
};

struct Axis {
  std::string name;
  std::vector<int> ranks;
  std::int64_t operations = 0;
};

struct Recording {
  int rank = 0, ranks = 1;
  std::int64_t run = 0, sequence = 0, step = -1, pid = 0;
  double written = 0;
  std::string host, reason, message;
  std::int64_t waits_in = 0;  // its sequence number; 0: in none
  double waits = 0;
  std::vector<Axis> axes;
  std::vector<Operation> operations;

  const Operation* find(std::int64_t wanted) const {
    const auto found = std::find_if(operations.begin(), operations.end(),
                                    [&](const Operation& one) { return one.sequence == wanted; });
    return found == operations.end() ? nullptr : &*found;
  }
};

Recording read_recording(const fs::path& file) {
  const nlohmann::json json = read_json(file);
  if (!json.is_object() || json.value("kind", "") != "flight recording")
    throw DataError("{}: is no flight recording", file.string());
  if (json.at("format_version") != 1) {
    throw DataError("{}: format version {}, this program reads 1", file.string(),
                    json.at("format_version").dump());
  }
  Recording recording;
  json.at("rank").get_to(recording.rank);
  json.at("ranks").get_to(recording.ranks);
  if (recording.ranks < 1 || recording.ranks > kMostRanks || recording.rank < 0 ||
      recording.rank >= recording.ranks) {
    throw DataError("{}: rank {} of {}", file.string(), recording.rank, recording.ranks);
  }
  json.at("run").get_to(recording.run);
  json.at("sequence").get_to(recording.sequence);
  json.at("step").get_to(recording.step);
  json.at("pid").get_to(recording.pid);
  json.at("written").get_to(recording.written);
  json.at("host").get_to(recording.host);
  json.at("reason").get_to(recording.reason);
  json.at("message").get_to(recording.message);
  if (const auto& waiting = json.at("waiting"); !waiting.is_null()) {
    waiting.at("sequence").get_to(recording.waits_in);
    waiting.at("seconds").get_to(recording.waits);
  }
  for (const auto& axis : json.at("axes")) {
    recording.axes.push_back({axis.at("name").get<std::string>(),
                              axis.at("ranks").get<std::vector<int>>(),
                              axis.at("operations").get<std::int64_t>()});
  }
  for (const auto& one : json.at("operations")) {
    recording.operations.push_back(
        {one.at("sequence").get<std::int64_t>(), one.at("axis_sequence").get<std::int64_t>(),
         one.at("bytes").get<std::int64_t>(), one.at("step").get<std::int64_t>(),
         one.at("axis").get<std::size_t>(), one.at("operation").get<std::string>(),
         one.at("traffic").get<std::string>(), one.at("peers").get<std::vector<int>>(),
         !one.at("completed").is_null()});
    if (recording.operations.back().axis >= recording.axes.size()) {
      throw DataError("{}: operation {} is on axis {} of {}", file.string(),
                      recording.operations.back().sequence, recording.operations.back().axis,
                      recording.axes.size());
    }
  }
  return recording;
}

std::string text_of(const Recording& recording, const Operation& one) {
  std::string text =
      fmt::format("{} ({} #{}", one.name, recording.axes[one.axis].name, one.axis_sequence);
  if (one.bytes > 0) text += fmt::format(", {} bytes of {}", one.bytes, one.traffic);
  if (!one.peers.empty()) text += fmt::format(", ranks {}", fmt::join(one.peers, ","));
  if (one.step >= 0) text += fmt::format(", step {}", one.step);
  text += ")";
  if (!one.complete) text += ", not complete";
  return text;
}

std::string time_text(double seconds) {
  // What lies outside is no time that a recording was written at.
  if (!(seconds >= 0) || seconds > 1e11) return fmt::format("{}", seconds);
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

std::string doing_text(const Recording& recording) {
  if (const Operation* in = recording.find(recording.waits_in))
    return fmt::format("waits for {:.1f} s in {}", recording.waits, text_of(recording, *in));
  if (recording.operations.empty()) return "has not communicated";
  return fmt::format("works; its last operation is {}",
                     text_of(recording, recording.operations.back()));
}

std::string ranks_text(const std::vector<int>& ranks) {
  constexpr std::size_t kShown = 16;
  const std::size_t shown = std::min(kShown, ranks.size());
  const auto end = ranks.begin() + static_cast<std::ptrdiff_t>(shown);
  return fmt::format("rank{} {}{}", ranks.size() == 1 ? "" : "s",
                     fmt::join(ranks.begin(), end, ", "),
                     ranks.size() > shown ? fmt::format(" and {} more", ranks.size() - shown) : "");
}

/// The recordings of one axis: the ranks that share it, and its place in each of their lists.
using Members = std::vector<const Recording*>;

const Operation* on_axis(const Recording& recording, std::size_t axis, std::int64_t number) {
  const auto found = std::find_if(
      recording.operations.begin(), recording.operations.end(),
      [&](const auto& one) { return one.axis == axis && one.axis_sequence == number; });
  return found == recording.operations.end() ? nullptr : &*found;
}

/// Ranks that have not come to an operation which others are in.
void find_behind(std::size_t axis, const Members& members, std::vector<std::string>& findings) {
  const auto count = [&](const Recording* one) { return one->axes[axis].operations; };
  const auto fewer = [&](const Recording* a, const Recording* b) { return count(a) < count(b); };
  const auto least = std::min_element(members.begin(), members.end(), fewer);
  const auto most = std::max_element(members.begin(), members.end(), fewer);
  if (count(*least) == count(*most)) return;
  std::vector<int> behind;
  for (const Recording* one : members)
    if (count(one) == count(*least)) behind.push_back(one->rank);
  const std::int64_t next = count(*least) + 1;
  const Operation* missed = on_axis(**most, axis, next);
  findings.push_back(fmt::format(
      "{}: {} {} behind: {} of the {} operations of rank {}; not come to {}",
      (*least)->axes[axis].name, ranks_text(behind), behind.size() == 1 ? "is" : "are",
      count(*least), count(*most), (*most)->rank,
      missed != nullptr ? text_of(**most, *missed) : fmt::format("operation #{}", next)));
}

/// The first operation that is not the same on all ranks of an axis.
void find_mismatch(std::size_t axis, const Members& members, std::vector<std::string>& findings) {
  std::map<std::int64_t, std::map<std::string, std::vector<int>>> doing;
  for (const Recording* one : members) {
    for (const Operation& operation : one->operations) {
      if (operation.axis != axis) continue;
      // Rows differ from rank to rank by right.
      const bool same_bytes = operation.name == "all-reduce" || operation.name == "broadcast";
      std::string what = fmt::format("{} of {}", operation.name, operation.traffic);
      if (same_bytes) what += fmt::format(", {} bytes", operation.bytes);
      doing[operation.axis_sequence][what].push_back(one->rank);
    }
  }
  for (const auto& [number, kinds] : doing) {
    if (kinds.size() < 2) continue;
    std::string text;
    for (const auto& [what, ranks] : kinds)
      text += fmt::format("{}{} in {}", text.empty() ? "" : "; ", ranks_text(ranks), what);
    findings.push_back(fmt::format("{} #{}: the ranks are not in the same operation: {}",
                                   members.front()->axes[axis].name, number, text));
    return;
  }
}

std::vector<fs::path> recording_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rank-") && name.ends_with(".json")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

bool holds_recordings(const fs::path& directory) { return !recording_files(directory).empty(); }

Json describe_recording(const fs::path& file) {
  const Recording recording = read_recording(file);
  Json axes = Json::array();
  for (const Axis& axis : recording.axes) {
    axes.push_back({{"name", axis.name}, {"ranks", axis.ranks}, {"operations", axis.operations}});
  }
  Json last = Json::object();
  const std::size_t kept = recording.operations.size();
  for (std::size_t i = kept - std::min(kShownOperations, kept); i < kept; ++i) {
    const Operation& one = recording.operations[i];
    last[fmt::format("#{}", one.sequence)] = text_of(recording, one);
  }
  return {{"kind", "flight recording"},
          {"path", file.string()},
          {"rank", recording.rank},
          {"ranks", recording.ranks},
          {"host", recording.host},
          {"pid", recording.pid},
          {"written", time_text(recording.written)},
          {"reason", recording.reason},
          {"message", recording.message},
          {"step", recording.step},
          {"sequence", recording.sequence},
          {"doing", doing_text(recording)},
          {"axes", axes},
          {"last_operations", last}};
}

Json compare_recordings(const fs::path& directory) {
  std::map<int, Recording> by_rank;
  std::int64_t run = 0;
  int older = 0;
  for (const fs::path& file : recording_files(directory)) {
    Recording recording = read_recording(file);
    if (!by_rank.empty() && recording.run != run) {
      ++older;
      if (recording.run < run) continue;
      older += static_cast<int>(by_rank.size()) - 1;
      by_rank.clear();
    }
    run = recording.run;
    by_rank.insert_or_assign(recording.rank, std::move(recording));
  }
  if (by_rank.empty())
    throw DataError("{}: holds no flight recording (rank-*.json)", directory.string());

  const int ranks = by_rank.begin()->second.ranks;
  std::vector<int> missing;
  std::vector<std::string> findings;
  for (int rank = 0; rank < ranks; ++rank)
    if (!by_rank.contains(rank)) missing.push_back(rank);
  if (!missing.empty()) {
    findings.push_back(
        fmt::format("{} left no recording: stopped, dead, or ended by the launcher before",
                    ranks_text(missing)));
  }
  // Ranks register their axes in the same order.
  std::map<std::tuple<std::size_t, std::string, std::vector<int>>, Members> axes;
  for (const auto& [rank, recording] : by_rank) {
    for (std::size_t i = 0; i < recording.axes.size(); ++i)
      axes[{i, recording.axes[i].name, recording.axes[i].ranks}].push_back(&recording);
  }
  for (const auto& [axis, members] : axes) {
    find_mismatch(std::get<0>(axis), members, findings);
    find_behind(std::get<0>(axis), members, findings);
  }
  if (findings.empty()) findings.emplace_back("all ranks are in the same operation");

  Json numbered = Json::object(), each = Json::object();
  for (std::size_t i = 0; i < findings.size(); ++i)
    numbered[fmt::format("{}", i + 1)] = findings[i];
  for (const auto& [rank, recording] : by_rank) {
    each[fmt::format("rank {}", rank)] = {{"host", recording.host},
                                          {"reason", recording.reason},
                                          {"step", recording.step},
                                          {"sequence", recording.sequence},
                                          {"doing", doing_text(recording)}};
  }
  return {{"kind", "flight recordings"}, {"path", directory.string()}, {"ranks", ranks},
          {"missing", missing},          {"of_earlier_jobs", older},   {"findings", numbered},
          {"recordings", each}};
}

}  // namespace graphlora
