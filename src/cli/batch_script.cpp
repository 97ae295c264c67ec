#include "cli/batch_script.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <regex>
#include <sstream>
#include <string_view>

#include "cli/batch_script_body.hpp"
#include "core/error.hpp"

namespace graphlora {
namespace {

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

std::string wrong_line(const std::string& value) {
  const bool wrong = std::any_of(value.begin(), value.end(), is_control);
  return wrong ? "must be one line without control characters" : "";
}

/// What is wrong with a word of a #SBATCH line, in which sbatch knows quotes, escapes and comments.
std::string wrong_word(const std::string& value) {
  constexpr std::string_view kRefused = " \"'\\#`$";
  for (const char c : value) {
    if (is_control(c)) return "must not contain control characters";
    if (kRefused.find(c) != std::string_view::npos)
      return fmt::format("must not contain '{}' (one word, as sbatch reads it)", c);
  }
  return "";
}

/// std::regex takes stack by the character.
bool matches(const std::string& text, const char* pattern) {
  constexpr std::size_t kLongest = 1000;
  return text.size() <= kLongest && std::regex_match(text, std::regex(pattern));
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

OptionTable::Check one_line(const std::string& value) {
  return [&value] { return wrong_line(value); };
}

OptionTable::Check word(const std::string& value) {
  return [&value] { return wrong_word(value); };
}

OptionTable::Check like(const std::string& value, const char* pattern, const char* expected) {
  return [&value, pattern, expected]() -> std::string {
    if (value.empty() || matches(value, pattern)) return {};
    return fmt::format("must be {}, got '{}'", expected, value);
  };
}

/// Options of sbatch, each --name, --name=value or -x.
OptionTable::Check sbatch_options(const std::string& value) {
  return [&value]() -> std::string {
    if (std::string wrong = wrong_line(value); !wrong.empty()) return wrong;
    for (const std::string& option : words_of(value)) {
      if (std::string wrong = wrong_word(option); !wrong.empty()) return wrong;
      if (!matches(option, "--[a-z][a-z-]*(=.+)?|-[A-Za-z].*"))
        return fmt::format("'{}' is no option: write --name=value, separated by blanks", option);
    }
    return {};
  };
}

OptionTable::Check module_names(const std::vector<std::string>& names) {
  return [&names]() -> std::string {
    for (const std::string& name : names) {
      if (!matches(name, "[A-Za-z0-9][A-Za-z0-9._+/@:=-]*"))
        return fmt::format("'{}' is no name of a module", name);
    }
    return {};
  };
}

/// A shell word that stands for `text` itself.
std::string shell_word(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// Its value, unless the environment of the job has another.
std::string setting(const char* name, const std::string& value) {
  return fmt::format("{0}=${{{0}:-{1}}}\n", name, shell_word(value));
}

void check(const BatchJob& job) {
  const bool image = job.container != "none";
  if (image && job.image.empty())
    throw ConfigError("--container {}: --image names none", job.container);
  if (!image && (!job.image.empty() || !job.container_options.empty()))
    throw ConfigError("--image, --container-options: need a --container, apptainer or enroot");
  if (job.container == "enroot" && job.launcher == "mpirun") {
    throw ConfigError(
        "--launcher mpirun: srun starts enroot's containers (Slurm's pyxis plugin); use --launcher "
        "srun or --container apptainer");
  }
  if (!job.gpu_type.empty() && job.gpus_per_node == 0)
    throw ConfigError("--gpu-type {}: --gpus-per-node is 0", job.gpu_type);
}

std::vector<std::string> sbatch_lines(const BatchJob& job) {
  std::vector<std::string> lines;
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) lines.push_back(fmt::format("--{}={}", name, value));
  };
  const auto number = [](std::int64_t value) { return value > 0 ? fmt::format("{}", value) : ""; };
  add("job-name", job.name);
  add("partition", job.partition);
  add("account", job.account);
  add("qos", job.qos);
  add("constraint", job.constraint);
  add("reservation", job.reservation);
  add("time", job.time);
  add("nodes", number(job.nodes));
  add("ntasks-per-node", number(job.tasks_per_node));
  add("cpus-per-task", number(job.cpus_per_task));
  add("mem", job.memory);
  if (job.gpus_per_node > 0) {
    const std::string gpus =
        fmt::format("{}{}{}", job.gpu_type, job.gpu_type.empty() ? "" : ":", job.gpus_per_node);
    if (job.gpu_request == "gres")
      add("gres", "gpu:" + gpus);
    else
      add("gpus-per-node", gpus);
  }
  add("output", job.log);
  add("open-mode", "append");
  lines.emplace_back("--requeue");
  add("signal", fmt::format("B:USR1@{}", job.warning_seconds));
  for (const std::string& option : words_of(job.sbatch)) lines.push_back(option);
  return lines;
}

}  // namespace

void add_batch_options(OptionTable& table, BatchJob& job) {
  constexpr const char* kSlurm = "Slurm";
  constexpr const char* kNodes = "Nodes";
  constexpr const char* kRun = "Run";
  constexpr std::int64_t kMost = 1'000'000;
  table.add(kSlurm, "job-name", &job.name, "name of the job", word(job.name))
      .add(kSlurm, "partition", &job.partition, "partition, or several", word(job.partition))
      .add(kSlurm, "account", &job.account, "account that pays", word(job.account))
      .add(kSlurm, "qos", &job.qos, "quality of service", word(job.qos))
      .add(kSlurm, "constraint", &job.constraint, "features that nodes must have, like gpu&hbm80g",
           word(job.constraint))
      .add(kSlurm, "reservation", &job.reservation, "reservation", word(job.reservation))
      .add(kSlurm, "time", &job.time, "time limit, like 4:00:00 or 1-12:00:00",
           like(job.time, R"(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2})",
                "minutes, hours:minutes:seconds or days-hours:minutes:seconds"))
      .add(kSlurm, "nodes", &job.nodes, "nodes", in_range(job.nodes, 1, kMost))
      .add(kSlurm, "tasks-per-node", &job.tasks_per_node,
           "MPI ranks of a node: on GPUs as many as GPUs", in_range(job.tasks_per_node, 1, kMost))
      .add(kSlurm, "cpus-per-task", &job.cpus_per_task, "CPUs of a rank; 0: the site's default",
           in_range(job.cpus_per_task, 0, kMost))
      .add(kSlurm, "memory", &job.memory, "memory of a node, like 480G; 0: all of it",
           like(job.memory, R"(\d+[KMGT]?)", "a number with K, M, G or T"))
      .add(kSlurm, "gpus-per-node", &job.gpus_per_node, "GPUs of a node",
           in_range(job.gpus_per_node, 0, kMost))
      .add(kSlurm, "gpu-type", &job.gpu_type, "their type, where the site tells types apart",
           like(job.gpu_type, R"([A-Za-z0-9_.-]+)", "a word like a100"))
      .add(kSlurm, "gpu-request", &job.gpu_request,
           "how the site wants to be asked for them: gpus-per-node or gres",
           one_of(job.gpu_request, {"gpus-per-node", "gres"}))
      .add(kSlurm, "log", &job.log, "the job's log, appended to, in sbatch's patterns",
           word(job.log))
      .add(kSlurm, "warning-seconds", &job.warning_seconds,
           "time to save before the time limit ends the job: more than a step and a save take",
           in_range(job.warning_seconds, 1, 65535))
      .add(kSlurm, "sbatch", &job.sbatch,
           "further options of sbatch, separated by blanks, like --exclusive --switches=1",
           sbatch_options(job.sbatch));
  table
      .add(kNodes, "modules", &job.modules, "environment modules to load",
           module_names(job.modules))
      .add(kNodes, "prologue", &job.prologue,
           "shell commands in front of the run, one line, put into the script as they are",
           one_line(job.prologue))
      .add(kNodes, "container", &job.container,
           "none, apptainer, or enroot (through Slurm's pyxis plugin)",
           one_of(job.container, {"none", "apptainer", "enroot"}))
      .add(kNodes, "image", &job.image, "the container's image", one_line(job.image))
      .add(kNodes, "container-options", &job.container_options,
           "options of apptainer exec, or of srun for enroot, like --container-mounts=/scratch",
           one_line(job.container_options));
  table
      .add(kRun, "bin", &job.program,
           "FILE: the program; empty: this one, or the container's graphlora",
           one_line(job.program))
      .add(kRun, "command", &job.command, "what it does",
           like(job.command, "[a-z]+", "a command of graphlora"))
      .add(kRun, "args", &job.arguments,
           "the command's options, in one quoted word: --args \"--data run/dataset …\"",
           one_line(job.arguments))
      .add(kRun, "launcher", &job.launcher,
           "srun, mpirun, or auto: srun where it and the program's Open MPI have PMIx",
           one_of(job.launcher, {"auto", "srun", "mpirun"}))
      .add(kRun, "srun-options", &job.srun_options, "further options of srun",
           one_line(job.srun_options))
      .add(kRun, "mpirun-options", &job.mpirun_options, "further options of mpirun",
           one_line(job.mpirun_options))
      .add(kRun, "max-restarts", &job.max_restarts,
           "restarts after which the job is not requeued any more",
           in_range(job.max_restarts, 1, 999'999));
}

std::string batch_script(const BatchJob& job, const std::string& program) {
  check(job);
  std::string out = "#!/usr/bin/env bash\n";
  for (const std::string& line : sbatch_lines(job)) out += fmt::format("#SBATCH {}\n", line);
  out += "\n# Written by graphlora slurm. The variables of slurm/train.sbatch hold here, too.\n";
  if (!job.modules.empty()) {
    out += fmt::format(
        "# A batch shell may not know them yet.\n"
        "type module >/dev/null 2>&1 || source /etc/profile\nmodule load {}\n",
        fmt::join(job.modules, " "));
  }
  // The job's output is the command's result.
  if (!job.prologue.empty()) out += fmt::format("{{\n{}\n}} >&2\n", job.prologue);

  std::string launcher = job.launcher, own = program, image;
  if (job.container == "apptainer") {
    own = "graphlora";
    out += setting("GRAPHLORA_CONTAINER",
                   fmt::format("apptainer exec {}{} {}", job.gpus_per_node > 0 ? "--nv " : "",
                               job.container_options, job.image));
  } else if (job.container == "enroot") {
    own = "graphlora";
    launcher = "srun";
    image = fmt::format(" --container-image={} {}", job.image, job.container_options);
  }
  out += setting("GRAPHLORA_BIN", job.program.empty() ? own : job.program);
  out += setting("GRAPHLORA_COMMAND", job.command);
  out += setting("GRAPHLORA_ARGS", job.arguments);
  out += setting("GRAPHLORA_LAUNCHER", launcher);
  out += setting("GRAPHLORA_SRUN_ARGS", job.srun_options);
  // Whatever the environment says of srun, the program is in the image.
  if (!image.empty()) out += fmt::format("GRAPHLORA_SRUN_ARGS+={}\n", shell_word(image));
  out += setting("GRAPHLORA_MPIRUN_ARGS", job.mpirun_options);
  out += setting("GRAPHLORA_MAX_RESTARTS", fmt::format("{}", job.max_restarts));
  return out + "\n" + kBatchScriptBody;
}

}  // namespace graphlora
