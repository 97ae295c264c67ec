// What the ranks of a job tell one another while one of them waits for too long: files in a
// directory that all of them see.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace graphlora {

/// A rank's sign of life.
struct Sign {
  std::uint64_t beat = 0;  ///< greater in each sign of a rank
  double waits = 0;        ///< seconds in the present operation; 0: in none
  double idle = 0;         ///< seconds without operation and without computing
  std::string doing;       ///< the present operation, or the last one
};
using Signs = std::map<int, Sign>;

/// The files of the run numbered `run` in `directory`: `asked-RUN` while a rank asks, the sign of a
/// rank `alive-RUN-00000`, and `alive-RUN`, all signs as one rank found them: a table that costs
/// each of the others one file to read. What other runs have there is left alone. Writing throws
/// Error; what can't be read is not there.
class SignsOfLife {
 public:
  SignsOfLife(std::filesystem::path directory, std::int64_t run);

  std::int64_t run() const { return run_; }
  std::filesystem::path asked_file() const;

  void write(int rank, const Sign& sign) const;
  std::optional<Sign> read(int rank) const;
  /// Reads the signs of all ranks below `ranks`, and calls `between` before each.
  Signs read_all(int ranks, const std::function<void()>& between) const;
  void write_table(const Signs& signs) const;
  Signs read_table() const;
  void remove(int rank) const;
  void remove_table() const;

 private:
  std::filesystem::path sign_file(int rank) const;
  std::filesystem::path table_file() const;

  std::filesystem::path directory_;
  std::int64_t run_;
};

}  // namespace graphlora
