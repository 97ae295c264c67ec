#include "dist/doctor/shared_directory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "core/doctor/directory.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "dist/doctor/gather.hpp"

namespace graphlora::doctor {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Whether the file comes to hold `contents` within `patience`: network file systems look at a
/// directory again only every few seconds.
bool comes_to_hold(const fs::path& path, const std::string& contents,
                   std::chrono::milliseconds patience) {
  const auto end = Clock::now() + patience;
  while (true) {
    try {
      if (read_file(path, contents.size()) == contents) return true;
    } catch (const DataError&) {  // not there yet
    }
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// Writes a file of this rank; false where that can't be done.
bool leave(const fs::path& path, const std::string& contents) {
  try {
    write_file(path, contents);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// Whether this process is the one that creates the file.
bool creates(const fs::path& path) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file >= 0) close(file);
  return file >= 0;
}

/// The ranks whose answer is 0, "rank 1 on n1 and 2 more"; empty if there is none. Collective.
std::string who_says_no(Communicator& world, bool yes, std::span<const RankPlace> places) {
  const std::vector<std::int64_t> answers = world.all_gather(yes ? 1 : 0, Traffic::control);
  const auto first = std::find(answers.begin(), answers.end(), 0);
  if (first == answers.end()) return "";
  std::string text = rank_text(places, static_cast<int>(first - answers.begin()));
  const auto others = std::count(first, answers.end(), 0) - 1;
  return others == 0 ? text : fmt::format("{} and {} more", text, others);
}

}  // namespace

std::vector<Check> check_shared_directory(Communicator& world, const fs::path& directory,
                                          std::span<const RankPlace> places,
                                          std::chrono::milliseconds patience) {
  Check shared{"files", "shared", Verdict::skip, "one rank"};
  if (world.size() == 1) return {shared};
  const bool writes = world.rank() == 0;
  std::optional<ScratchDirectory> scratch;
  try {
    if (writes) scratch.emplace(directory);
  } catch (const DataError&) {  // check_directory tells
  }
  const std::string name = world.broadcast_text(
      scratch ? scratch->path().filename().string() : std::string(), 0, Traffic::control);
  shared.seen = "rank 0 can't write there";
  if (name.empty()) return {shared};

  const fs::path place = directory / name;
  const std::string from_zero = fmt::format("rank 0 in {}\n", name);
  if (writes) leave(place / "from-0", from_zero);
  world.barrier();
  const bool seen = comes_to_hold(place / "from-0", from_zero, patience);
  const std::string blind = who_says_no(world, seen, places);
  const auto file_of = [&](int rank) { return place / fmt::format("to-0-{}", rank); };
  const bool left = leave(file_of(world.rank()), "here\n");
  const std::string mute = who_says_no(world, left, places);
  int unseen = -1;
  if (writes && blind.empty() && mute.empty()) {
    for (int rank = 0; rank < world.size() && unseen < 0; ++rank)
      if (!comes_to_hold(file_of(rank), "here\n", patience)) unseen = rank;
  }
  unseen = static_cast<int>(world.all_gather(unseen, Traffic::control)[0]);

  const std::string remedy =
      "every rank writes its part of a checkpoint there: a directory of a file system that all "
      "hosts mount, with the same name and rights";
  shared.verdict = Verdict::pass;
  const std::size_t hosts = hosts_of(places).size();
  shared.seen = fmt::format("{} ranks on {} host{} see each other's files", world.size(), hosts,
                            hosts == 1 ? "" : "s");
  if (!blind.empty()) {
    shared.verdict = Verdict::fail;
    shared.seen = fmt::format("a file of rank 0 is not seen by {} after {:.1f} s", blind,
                              1e-3 * static_cast<double>(patience.count()));
  } else if (!mute.empty()) {
    shared.verdict = Verdict::fail;
    shared.seen = fmt::format("{} can't write there", mute);
  } else if (unseen >= 0) {
    shared.verdict = Verdict::fail;
    shared.seen = fmt::format("a file of {} is not seen by rank 0", rank_text(places, unseen));
  }
  if (shared.verdict == Verdict::fail) shared.remedy = remedy;

  Check held{"files", "shared lock", Verdict::skip, "the directory is not shared"};
  std::int64_t created = 0;
  for (const std::int64_t one : world.all_gather(creates(place / "lock") ? 1 : 0, Traffic::control))
    created += one;
  if (blind.empty() && mute.empty()) {
    held.verdict = created == 1 ? Verdict::pass : Verdict::warn;
    held.seen = fmt::format("of {} ranks that create the same file at once (O_EXCL) {} did",
                            world.size(), created);
    if (created != 1) {
      held.remedy =
          "two runs on different hosts may start on one output unnoticed: use another file system";
    }
  }
  world.barrier();
  return {shared, held};
}

}  // namespace graphlora::doctor
