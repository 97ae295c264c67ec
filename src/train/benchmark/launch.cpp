#include "train/benchmark/launch.hpp"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <sstream>
#include <system_error>

#include "core/error.hpp"
#include "dist/doctor/launcher.hpp"

namespace graphlora::benchmark {
namespace {

std::filesystem::path own_program() { return std::filesystem::read_symlink("/proc/self/exe"); }

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

std::vector<std::string> launcher_words(const std::string& given) {
  std::vector<std::string> words;
  std::istringstream stream(given);
  for (std::string word; stream >> word;) words.push_back(word);
  if (!words.empty()) return words;
  const std::filesystem::path folder = own_program().parent_path();
  for (const std::filesystem::path& script :
       {folder / "graphlora-mpirun", folder / "../../launch/mpirun"})
    if (access(script.c_str(), X_OK) == 0) return {script.lexically_normal().string()};
  return {"mpirun", "--bind-to", "none"};
}

void run_on_ranks(const std::vector<std::string>& launcher, std::int64_t ranks,
                  const std::vector<std::string>& arguments) {
  std::vector<std::string> words = launcher, environment;
  words.insert(words.end(), {"-np", std::to_string(ranks), own_program().string()});
  words.insert(words.end(), arguments.begin(), arguments.end());
  for (const auto& [name, value] : doctor::initial_environment())
    environment.push_back(fmt::format("{}={}", name, value));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, words[0].c_str(), &actions, nullptr, pointers(words).data(),
                                  pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0)
    throw ConfigError("--launcher {}: it can't be started: {}", words[0],
                      std::generic_category().message(failed));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  if (code == 0) return;
  const std::string message =
      fmt::format("the run on {} ranks failed ({}); its own message stands above", ranks,
                  code < 0 ? "by a signal" : fmt::format("exit code {}", code));
  for (const ExitCode known : {ExitCode::config, ExitCode::data, ExitCode::interrupted})
    if (code == static_cast<int>(known)) throw Error(known, message);
  throw Error(ExitCode::communication, message);
}

}  // namespace graphlora::benchmark
