#include "core/doctor/directory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "core/error.hpp"

namespace graphlora::doctor {
namespace {
namespace fs = std::filesystem;

constexpr int kRenames = 200;
constexpr std::size_t kBytes = 4096;
constexpr double kSlowSync = 1.0;  // seconds for a file of a page and its directory

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return fd_; }  // NOLINT: stands for the number in system calls

 private:
  int fd_;
};

Check files_check(const char* name) { return {"files", name, Verdict::pass, ""}; }

void fail(Check& check, std::string seen, std::string remedy) {
  check.verdict = Verdict::fail;
  check.seen = std::move(seen);
  check.remedy = std::move(remedy);
}

std::string reason() { return std::strerror(errno); }

/// Writes all of `text`; where that fails errno says why.
bool write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

/// Writes `text` to a file at `path` and syncs it.
bool write_synced(const fs::path& path, const std::string& text) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  return file >= 0 && write_all(file, text) && fsync(file) == 0;
}

Check check_sync(const fs::path& scratch) {
  Check check = files_check("sync");
  const auto start = std::chrono::steady_clock::now();
  if (!write_synced(scratch / "synced", std::string(kBytes, 's'))) {
    fail(check, "a file can't be written and synced: " + reason(),
         "what is not synced is lost when the host fails: choose another file system");
    return check;
  }
  const Descriptor directory(scratch, O_RDONLY | O_DIRECTORY);
  const bool synced = directory >= 0 && fsync(directory) == 0;
  const std::string why = synced ? "" : reason();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  check.seen = fmt::format("file and directory in {:.1f} ms", 1e3 * seconds);
  if (!synced) {
    check.verdict = Verdict::warn;
    check.seen = "directories can't be synced: " + why;
    check.remedy = "a power failure may lose the last checkpoint's name: keep two (--keep 2)";
  } else if (seconds > kSlowSync) {
    check.verdict = Verdict::warn;
    check.remedy = "each save waits for several of these: a faster file system, or fewer saves";
  }
  return check;
}

/// What a reader of a file that is being replaced saw.
struct Readings {
  std::atomic<bool> stop = false;
  std::atomic<int> missing = 0, torn = 0, whole = 0;
};

void read_on(const fs::path& path, Readings& readings) {
  std::string text(kBytes + 1, '\0');
  while (!readings.stop) {
    const Descriptor file(path, O_RDONLY);
    if (file < 0) {
      ++readings.missing;
      continue;
    }
    const ssize_t size = read(file, text.data(), text.size());
    const bool whole =
        size == static_cast<ssize_t>(kBytes) &&
        std::string_view(text.data(), kBytes).find_first_not_of(text[0]) == std::string_view::npos;
    ++(whole ? readings.whole : readings.torn);
  }
}

Check check_rename(const fs::path& scratch) {
  Check check = files_check("rename");
  const fs::path target = scratch / "renamed", next = scratch / "renamed.next";
  Readings readings;
  bool done = write_synced(target, std::string(kBytes, 'a'));
  std::string why = done ? "" : reason();
  std::thread reader;
  if (done) reader = std::thread([&] { read_on(target, readings); });
  for (int i = 0; done && i < kRenames; ++i) {
    const Descriptor file(next, O_WRONLY | O_CREAT | O_TRUNC);
    const std::string text(kBytes, static_cast<char>('a' + i % 26));
    done = file >= 0 && write_all(file, text) && std::rename(next.c_str(), target.c_str()) == 0;
    if (!done) why = reason();
  }
  readings.stop = true;
  if (reader.joinable()) reader.join();
  constexpr const char* kRemedy =
      "checkpoints rest on it: choose another file system (no object-store mount)";
  if (!done) {
    fail(check, "a file can't be replaced by rename: " + why, kRemedy);
  } else if (readings.missing > 0 || readings.torn > 0) {
    fail(check,
         fmt::format("while a file was replaced {} times, readers found it missing {} times and "
                     "torn {} times",
                     kRenames, readings.missing.load(), readings.torn.load()),
         kRemedy);
  } else {
    check.seen = fmt::format("{} times, {} reads saw whole files", kRenames, readings.whole.load());
  }
  return check;
}

Check check_exchange(const fs::path& scratch) {
  Check check = files_check("exchange");
  const fs::path first = scratch / "first", second = scratch / "second";
  std::error_code error;
  fs::create_directory(first, error);
  fs::create_directory(second, error);
  const bool done =
      write_synced(first / "mark", "1") &&
      renameat2(AT_FDCWD, first.c_str(), AT_FDCWD, second.c_str(), RENAME_EXCHANGE) == 0 &&
      fs::exists(second / "mark", error) && !fs::exists(first / "mark", error);
  check.seen = done ? "directories change places in one step" : "directories can't: " + reason();
  if (!done) {
    check.verdict = Verdict::warn;
    check.remedy =
        "a dataset or partition that is replaced by a new one is missing for a moment: do not "
        "rebuild it while others read it";
  }
  return check;
}

/// What the lock of a run rests on.
Check check_lock(const fs::path& scratch) {
  Check check = files_check("lock");
  const fs::path path = scratch / "lock";
  const Descriptor first(path, O_RDWR | O_CREAT | O_EXCL);
  const std::string why = reason();
  const Descriptor second(path, O_RDWR | O_CREAT | O_EXCL);
  check.seen = "a file is created by one opener only (O_EXCL)";
  if (first < 0 || second >= 0) {
    check.verdict = Verdict::warn;
    check.seen = first < 0 ? "no file can be created with O_EXCL: " + why
                           : "a file was created by two openers (O_EXCL)";
    check.remedy = "two runs started on one output may not notice each other: use another one";
  }
  return check;
}

Check check_space(const fs::path& directory, std::uint64_t needed) {
  Check check = files_check("space");
  struct statvfs status {};
  if (statvfs(directory.c_str(), &status) != 0) {
    fail(check, "can't be told: " + reason(), "check the mount");
    return check;
  }
  const auto block = static_cast<std::uint64_t>(status.f_frsize);
  const std::uint64_t free = status.f_bavail * block;
  check.seen = fmt::format("{} free of {}", size_text(free), size_text(status.f_blocks * block));
  if (free < needed) {
    check.verdict = Verdict::warn;
    check.remedy = fmt::format(
        "{} are wanted: delete old files, keep fewer checkpoints (--keep), or another "
        "--files.free",
        size_text(needed));
  }
  return check;
}

/// Names of the file systems that clusters have.
std::string file_system_name(const fs::path& path) {
  struct statfs status {};
  if (statfs(path.c_str(), &status) != 0) return "unknown file system";
  switch (static_cast<std::uint32_t>(status.f_type)) {
    case 0xEF53:
      return "ext";
    case 0x58465342:
      return "XFS";
    case 0x9123683E:
      return "Btrfs";
    case 0x01021994:
      return "tmpfs";
    case 0x794C7630:
      return "overlay";
    case 0x6969:
      return "NFS";
    case 0x0BD00BD0:
      return "Lustre";
    case 0x47504653:
      return "GPFS";
    case 0x19830326:
      return "BeeGFS";
    case 0x00C36400:
      return "Ceph";
    case 0x65735546:
      return "FUSE";
    case 0x2FC12FC1:
      return "ZFS";
    default:
      return fmt::format("file system {:#x}", static_cast<std::uint32_t>(status.f_type));
  }
}

}  // namespace

ScratchDirectory::ScratchDirectory(const fs::path& parent) {
  std::string name = (parent / ".graphlora-doctor-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr)
    throw DataError("{}: no directory can be made there: {}", parent.string(), reason());
  path_ = name;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<Check> check_directory(const fs::path& directory, std::uint64_t needed) {
  Check place = files_check("directory");
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    fail(place,
         fmt::format("{}: {}", directory.string(), error ? error.message() : "is not a directory"),
         fmt::format("mkdir -p '{}', or name the directory above it", directory.string()));
    return {place};
  }
  try {
    const ScratchDirectory scratch(directory);
    place.seen = fmt::format("{} ({})", directory.string(), file_system_name(directory));
    return {place,
            check_sync(scratch.path()),
            check_rename(scratch.path()),
            check_exchange(scratch.path()),
            check_lock(scratch.path()),
            check_space(scratch.path(), needed)};
  } catch (const DataError& problem) {
    fail(place, problem.what(), "chmod u+w, a mount without ro, or another directory");
    return {place};
  }
}

}  // namespace graphlora::doctor
