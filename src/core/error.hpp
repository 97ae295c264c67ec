// Exceptions of the project; each kind knows the exit code it ends the program with.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace graphlora {

/// Exit codes of the program (docs: README, "Exit codes").
enum class ExitCode : int {
  ok = 0,
  config = 2,
  data = 3,
  communication = 4,
  interrupted = 5,
  internal = 70
};

/// Base of every error that a user can cause or must read: one line that says what, where and what
/// to do.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

/// Wrong flag, option or combination of options. Exit code 2.
struct ConfigError : Error {
  template <class... Args>
  explicit ConfigError(fmt::format_string<Args...> text, Args&&... args)
      : Error(ExitCode::config, fmt::format(text, std::forward<Args>(args)...)) {}
};
/// Bad, missing or inconsistent input file; unwritable output. Exit code 3.
struct DataError : Error {
  template <class... Args>
  explicit DataError(fmt::format_string<Args...> text, Args&&... args)
      : Error(ExitCode::data, fmt::format(text, std::forward<Args>(args)...)) {}
};
/// A tensor of a file whose shape or type is not the one required. Exit code 3.
struct ShapeError : Error {
  template <class... Args>
  explicit ShapeError(fmt::format_string<Args...> text, Args&&... args)
      : Error(ExitCode::data, fmt::format(text, std::forward<Args>(args)...)) {}
};
/// MPI or NCCL failed. Exit code 4.
struct CommError : Error {
  template <class... Args>
  explicit CommError(fmt::format_string<Args...> text, Args&&... args)
      : Error(ExitCode::communication, fmt::format(text, std::forward<Args>(args)...)) {}
};
/// An error that all ranks know of already (Job::agree): whoever catches it exits with its code and
/// prints nothing, because rank 0 has.
struct AgreedError : Error {
  using Error::Error;
};

}  // namespace graphlora
