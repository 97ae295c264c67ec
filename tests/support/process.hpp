// Runs a program as a process of its own and keeps what it printed.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/temporary_directory.hpp"

extern char** environ;

namespace graphlora::test {

struct ProcessResult {
  int code = -1;   ///< exit status; -1: ended by a signal
  int signal = 0;  ///< the signal that ended it; SIGKILL after the time limit
  std::string out, err;
  double cpu_seconds = 0;  ///< user and system time
};

/// Runs argv[0] (searched in PATH) with its arguments; standard input is empty. Once `interrupt`
/// (asked every 5 ms) is true it gets SIGUSR1.
inline ProcessResult run_process(const std::vector<std::string>& argv,
                                 std::chrono::seconds limit = std::chrono::seconds(120),
                                 std::function<bool()> interrupt = {}) {
  const TemporaryDirectory directory;
  const std::string out = directory / "out", err = directory / "err";
  std::vector<char*> pointers;
  for (const std::string& word : argv) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT, 0600);
  const auto start = std::chrono::steady_clock::now();
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, pointers[0], &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error("cannot start " + argv[0]);

  int status = 0;
  rusage usage{};
  while (wait4(pid, &status, WNOHANG, &usage) == 0) {
    if (std::chrono::steady_clock::now() - start > limit) kill(pid, SIGKILL);
    if (interrupt && interrupt()) {
      kill(pid, SIGUSR1);
      interrupt = {};
    }
    const timespec pause{0, 5'000'000};
    nanosleep(&pause, nullptr);
  }
  ProcessResult result;
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  result.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  const auto contents = [](const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  };
  result.out = contents(out);
  result.err = contents(err);
  return result;
}

/// Lines of `text` that begin with "error: ".
inline std::vector<std::string> error_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    if (line.starts_with("error: ")) lines.push_back(line);
  return lines;
}

}  // namespace graphlora::test
