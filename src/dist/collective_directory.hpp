// An output directory that every rank fills.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "core/file.hpp"
#include "dist/job.hpp"

namespace graphlora {

/// An AtomicDirectory of rank 0 whose temporary name every rank knows. All write into path(), agree
/// that they are done, and rank 0 renames the whole into place; without commit nothing is left.
class CollectiveDirectory {
 public:
  /// Makes the temporary directory (and the target's parents), as AtomicDirectory does. Collective;
  /// errors are agreed.
  CollectiveDirectory(Job& job, const std::filesystem::path& target, const std::string& marker);
  const std::filesystem::path& path() const { return path_; }  ///< Where to write.
  /// After all ranks have written; acts on rank 0 only. Throws DataError. Local.
  void commit();

 private:
  std::optional<AtomicDirectory> directory_;
  std::filesystem::path path_;
};

}  // namespace graphlora
