#include "core/run_lock.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostBytes = 4096;
constexpr auto kLook = std::chrono::milliseconds(200);

/// Which machine, since when, and which of its numberings of processes: where all are the same, a
/// process' number can be looked up.
std::string boot() {
  std::string id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
  std::error_code error;
  return id + " " + fs::read_symlink("/proc/self/ns/pid", error).string();
}

/// When a process started, in ticks since the machine did; -1: there is none, or it has ended and
/// nobody has asked for its result yet.
std::int64_t start_of(std::int64_t process) {
  std::string line;
  std::getline(std::ifstream(fmt::format("/proc/{}/stat", process)), line);
  // The name, in parentheses, may hold blanks and parentheses; the state follows.
  const auto name_end = line.rfind(')');
  if (name_end == std::string::npos) return -1;
  std::istringstream fields(line.substr(name_end + 1));
  std::string state, field;
  fields >> state;
  if (state == "Z" || state == "X") return -1;
  constexpr int kFieldsBetween = 18;
  for (int i = 0; i < kFieldsBetween; ++i) fields >> field;
  std::int64_t start = -1;
  fields >> start;
  return start;
}

/// What stands in the lock; none if there is no lock (any more).
std::optional<std::string> contents(const fs::path& path) {
  try {
    return read_file(path, kMostBytes);
  } catch (const DataError&) {
    if (path_exists(path)) throw;
    return std::nullopt;
  }
}

std::int64_t number(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number_integer() ? found->get<std::int64_t>() : -1;
}
std::string text(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

enum class Holder { gone, alive, elsewhere };

Holder holder_of(const nlohmann::json& lock, const nlohmann::json& own) {
  if (text(lock, "boot") == text(own, "boot")) {
    const std::int64_t start = start_of(number(lock, "process"));
    return start >= 0 && start == number(lock, "started") ? Holder::alive : Holder::gone;
  }
  // Slurm starts a job again only after it has ended.
  const bool requeued = !text(own, "slurm_job").empty() &&
                        text(lock, "slurm_job") == text(own, "slurm_job") &&
                        number(lock, "slurm_restart") < number(own, "slurm_restart");
  return requeued ? Holder::gone : Holder::elsewhere;
}

std::string who(const nlohmann::json& lock) {
  const std::string host = text(lock, "host"), job = text(lock, "slurm_job");
  if (host.empty()) return "an unknown process";
  return fmt::format("process {} on {}{}", number(lock, "process"), host,
                     job.empty() ? "" : ", Slurm job " + job);
}

}  // namespace

nlohmann::json describe_process() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  nlohmann::json json{{"host", host.data()},
                      {"process", getpid()},
                      {"started", start_of(getpid())},
                      {"boot", boot()}};
  if (const char* job = std::getenv("SLURM_JOB_ID")) {
    json["slurm_job"] = job;
    const char* restart = std::getenv("SLURM_RESTART_COUNT");
    json["slurm_restart"] = restart == nullptr ? 0 : std::atoi(restart);
  }
  return json;
}

RunLock::RunLock(const fs::path& directory, Times times)
    : path_(directory / "lock"), times_(times) {
  for (fs::path parent = directory; !parent.empty() && !path_exists(parent);
       parent = parent.parent_path())
    new_directories_.push_back(parent);
  try {
    make_directories(directory);
    acquire();
  } catch (...) {
    std::error_code ignored;
    for (const fs::path& made : new_directories_) fs::remove(made, ignored);
    throw;
  }
  heart_ = std::thread([this] { beat(); });
}

void RunLock::acquire() {
  nlohmann::json own = describe_process();
  std::random_device random;
  token_ = fmt::format("{:08x}{:08x}", random(), random());
  own["token"] = token_;
  // The beats stand first and have a fixed width, so that they can be written in place.
  const std::string line = fmt::format("{:020} {}\n", 0, own.dump());
  while (true) {
    const int fd = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) {
      const ssize_t written = write(fd, line.data(), line.size());
      const int reason = errno;
      close(fd);
      if (written == static_cast<ssize_t>(line.size())) break;
      std::error_code ignored;
      fs::remove(path_, ignored);
      throw DataError("{}: cannot write: {}", path_.string(),
                      written < 0 ? std::strerror(reason) : "only a part of it");
    }
    if (errno != EEXIST)
      throw DataError("{}: cannot create: {}", path_.string(), std::strerror(errno));
    if (const auto seen = contents(path_)) take_over(*seen);
  }
}

void RunLock::take_over(const std::string& seen) const {
  const auto parse = [](const std::string& line) {
    const auto json = nlohmann::json::parse(line.substr(std::min(line.find('{'), line.size())),
                                            nullptr, /*allow_exceptions=*/false);
    return json.is_object() ? json : nlohmann::json::object();
  };
  const nlohmann::json lock = parse(seen);
  const auto refuse = [&] {
    throw ConfigError(
        "{}: a run works in this directory ({}); wait for its end, or give another --output",
        path_.parent_path().string(), who(lock));
  };
  const Holder holder = holder_of(lock, describe_process());
  if (holder == Holder::alive) refuse();
  if (holder == Holder::elsewhere) {
    log::warn("{}: left by {}; watching it for {:.0f} s", path_.string(), who(lock), times_.stale);
    const auto end = Clock::now() + std::chrono::duration<double>(times_.stale);
    while (Clock::now() < end) {
      std::this_thread::sleep_for(kLook);
      const auto now = contents(path_);
      if (!now) return;
      if (*now != seen) refuse();
    }
  }
  // Of several that come to this point one renames what it has judged.
  fs::path aside = path_;
  aside += ".stale-" + token_;
  std::error_code error;
  fs::rename(path_, aside, error);
  if (error == std::errc::no_such_file_or_directory) return;
  if (error) throw DataError("{}: cannot replace: {}", path_.string(), error.message());
  if (contents(aside) != seen) {
    // Another one's, who came first. Back, unless a third one's stands there by now.
    if (link(aside.c_str(), path_.c_str()) == 0 || errno == EEXIST) fs::remove(aside, error);
    refuse();
  }
  fs::remove(aside, error);
  log::warn("{}: was left by {}, which is gone", path_.string(), who(lock));
}

void RunLock::check() const {
  const auto now = contents(path_);
  if (now && now->find(token_) != std::string::npos) return;
  throw DataError("{}: is no longer this run's: another one has taken the directory",
                  path_.string());
}

void RunLock::beat() {
  std::uint64_t beats = 0;
  std::unique_lock guard(mutex_);
  while (!stop_.wait_for(guard, std::chrono::duration<double>(times_.beat),
                         [this] { return stopping_; })) {
    try {
      check();
    } catch (const Error&) {
      continue;  // another's, or out of reach for now: the next save says so
    }
    const int fd = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) continue;
    const std::string number = fmt::format("{:020}", ++beats);
    // A beat that cannot be written is one that is missing.
    if (pwrite(fd, number.data(), number.size(), 0) < 0) --beats;
    close(fd);
  }
}

RunLock::~RunLock() {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  stop_.notify_one();
  heart_.join();
  std::error_code ignored;
  try {
    check();
    fs::remove(path_, ignored);
  } catch (const Error&) {
    return;  // another run's
  }
  // Directories that this made and nothing was written into.
  for (const fs::path& directory : new_directories_) fs::remove(directory, ignored);
}

}  // namespace graphlora
