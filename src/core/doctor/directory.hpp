// Whether a file system can carry a run's output: what atomic, lasting writes rest on.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/doctor/check.hpp"

namespace graphlora::doctor {

/// A directory for trials inside `parent`, with a name of its own; goes with all it holds.
class ScratchDirectory {
 public:
  /// Throws DataError where it can't be made.
  explicit ScratchDirectory(const std::filesystem::path& parent);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Tries `directory` with small files, which are removed again. Checks of group "files":
/// "directory" (it is there and takes files), and where it does: "sync" (write and fsync of a file
/// and of its directory, with the time taken), "rename" (replaces a file while readers look on:
/// they see the old or the new one, whole), "exchange" (two directories change places in one step),
/// "lock" (O_EXCL keeps a second creator out) and "space" (`needed` bytes free).
std::vector<Check> check_directory(const std::filesystem::path& directory, std::uint64_t needed);

}  // namespace graphlora::doctor
