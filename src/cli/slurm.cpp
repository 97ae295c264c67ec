#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "cli/batch_script.hpp"
#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace {

struct SlurmOptions {
  std::string site;
  bool dry_run = false;
  BatchJob job;
  CommonOptions common;

  OptionTable table() {
    OptionTable table(
        "slurm", "Writes a Slurm job script for a cluster, and submits it",
        "A site file says what the cluster wants: partition, account, GPUs, modules or container "
        "(an INI file with the options below without a dot or a section; configs/sites has "
        "examples). Flags win over it. The script has no variable in its #SBATCH lines, and needs "
        "nothing but the program: it launches the ranks by srun or mpirun, asks them to save when "
        "the time is up, and goes back into the queue by itself. docs/slurm.md tells more.");
    table
        .example(
            "graphlora slurm --site configs/sites/gpu-a100-slingshot.ini --nodes 2 --time 4:00:00 "
            "--args \"--data run/dataset --model run/model --pretrained run/pretrained --output "
            "run/out\" --dry-run",
            "the script on stdout")
        .example("graphlora slurm --site my-site.ini --args \"--config train.ini\"",
                 "submitted at once");
    table.add_required("Site", "site", &site, "FILE: what the cluster wants")
        .add("Site", "dry-run", &dry_run, "print the script instead of submitting it");
    add_batch_options(table, job);
    add_common_options(table, common);
    return table;
  }
};

/// The environment that this process was started with: what MPI has put there since would reach the
/// job and keep its ranks apart.
std::vector<std::string> initial_environment() {
  std::vector<std::string> variables;
  std::FILE* file = std::fopen("/proc/self/environ", "rb");
  if (file == nullptr) throw DataError("/proc/self/environ can't be read");
  std::string variable;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) {
    if (c != 0) {
      variable += static_cast<char>(c);
      continue;
    }
    variables.push_back(std::move(variable));
    variable.clear();
  }
  std::fclose(file);
  return variables;
}

/// Pointers for exec; the strings must outlive them.
std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

/// A file in memory; closed at the end.
class MemoryFile {
 public:
  explicit MemoryFile(const char* name) : file_(memfd_create(name, MFD_CLOEXEC)) {
    if (file_ < 0) throw DataError("no file in memory: {}", std::generic_category().message(errno));
  }
  ~MemoryFile() { close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  int number() const { return file_; }
  void write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = ::write(file_, text.data(), text.size());
      if (written < 0)
        throw DataError("no file in memory: {}", std::generic_category().message(errno));
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    lseek(file_, 0, SEEK_SET);
  }
  std::string read() const {
    std::string text;
    std::array<char, 4096> buffer{};
    for (ssize_t got = 0;
         (got = pread(file_, buffer.data(), buffer.size(), static_cast<off_t>(text.size()))) > 0;)
      text.append(buffer.data(), static_cast<std::size_t>(got));
    return text;
  }

 private:
  int file_;
};

/// Whether the script sets it: one of the user's shell would reach the job and win over the flags.
bool is_set_by_script(const std::string& variable) {
  constexpr std::array kNames{"GRAPHLORA_BIN",       "GRAPHLORA_COMMAND",
                              "GRAPHLORA_ARGS",      "GRAPHLORA_LAUNCHER",
                              "GRAPHLORA_SRUN_ARGS", "GRAPHLORA_MPIRUN_ARGS",
                              "GRAPHLORA_CONTAINER", "GRAPHLORA_MAX_RESTARTS"};
  const std::string_view name = std::string_view(variable).substr(0, variable.find('='));
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// Hands the script to sbatch; the job's number.
std::string submit(const std::string& script) {
  const MemoryFile input("script"), output("number");
  input.write(script);
  std::vector<std::string> words{"sbatch", "--parsable"}, environment = initial_environment();
  std::erase_if(environment, is_set_by_script);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.number(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.number(), STDOUT_FILENO);
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, "sbatch", &actions, nullptr, pointers(words).data(),
                                  pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed == ENOENT) {
    throw ConfigError(
        "there is no sbatch on this machine: run this on a login node of the cluster, or add "
        "--dry-run to see the script");
  }
  if (failed != 0)
    throw ConfigError("sbatch can't be started: {}", std::generic_category().message(failed));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw ConfigError("sbatch refused the job (its own message stands above)");
  // NUMBER, or NUMBER;CLUSTER
  const std::string number = output.read();
  return number.substr(0, number.find_first_of(";\n"));
}

}  // namespace

OptionTable describe_slurm() { return table_of<SlurmOptions>(); }

int run_slurm(Job& job, const std::vector<std::string>& arguments) {
  SlurmOptions options;
  job.agree([&] {
    options.table().parse(arguments);
    if (std::any_of(arguments.begin(), arguments.end(), [](const std::string& word) {
          return word == "--config" || word.starts_with("--config=");
        }))
      throw ConfigError("--config: the options of this command stand in the file of --site");
    if (!std::filesystem::is_regular_file(options.site))
      throw ConfigError("--site {}: there is no such file", options.site);
    // Once more, with the site's file as configuration: flags win.
    std::vector<std::string> with_site = arguments;
    with_site.insert(with_site.end(), {"--config", options.site});
    options = SlurmOptions();
    options.table().parse(with_site);
  });
  job.agree([&] {
    if (job.world()->rank() != 0) return;
    const std::string script =
        batch_script(options.job, std::filesystem::read_symlink("/proc/self/exe").string());
    if (options.dry_run)
      std::fputs(script.c_str(), stdout);
    else
      fmt::print("submitted job {}\n", submit(script));
  });
  return 0;
}

}  // namespace graphlora
