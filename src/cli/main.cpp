// The program: picks the command, answers --help and --version without starting MPI, and runs
// everything else inside a job.
#include <cstdio>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/common_options.hpp"
#include "cli/version.hpp"
#include "core/error.hpp"
#include "core/log.hpp"
#include "core/primitive_cache.hpp"
#include "dist/job.hpp"

namespace graphlora {
namespace {

std::string overview() {
  std::string out =
      "GraphLoRA fine-tunes a frozen large language model as a recommender, with what its graph\n"
      "of users and items knows injected into low-rank adapters.\n\n"
      "Usage: graphlora COMMAND [options]\n"
      "       mpirun -np P graphlora COMMAND [options]    the same on P ranks\n\nCommands:\n";
  for (const Command& command : commands())
    out += fmt::format("  {:<12}{}\n", command.name, command.describe().summary());
  out +=
      "\ngraphlora COMMAND --help    explains a command, with examples\n"
      "graphlora --version         versions of the program and its libraries\n"
      "graphlora options           all options of all commands, in Markdown\n\n"
      "Results go to stdout, logs and progress to stderr. Exit codes: 0 done, 2 wrong usage,\n"
      "3 bad data, 4 communication failed, 5 interrupted after saving a checkpoint, 70 a bug.\n";
  return out;
}

std::string all_options_markdown() {
  std::string common;
  std::string rest;
  for (const Command& command : commands()) {
    const OptionTable table = command.describe();
    if (common.empty()) common = table.markdown_group(kCommonGroup);
    rest += fmt::format("\n{}", table.markdown(kCommonGroup));
  }
  std::string out =
      "# Configuration\n\n"
      "Every option of every command, printed by `graphlora options --markdown`. An option is "
      "given "
      "as a\nflag (`--lora.rank 8`) or in an INI file (`--config train.ini`); flags win. In the "
      "file, "
      "options\nwithout a dot stand above the first section, and sections are prefixes:\n\n"
      "```ini\nsteps = 400\n[lora]\nrank = 8   # a comment\n[prompt]\nyes = \" Yes\"\n```\n\n"
      "A `#` begins a comment at the start of a line or behind a blank. A value in double quotes "
      "keeps its\nblanks and every `#`.\n\n"
      "Lists are separated by commas without spaces. A switch is given as `--resume`, or as "
      "`resume "
      "= true`\nin a file. Options of all commands:\n\n";
  return out.append(common).append(rest);
}

const Command* find_command(const std::string& name) {
  for (const Command& command : commands())
    if (name == command.name) return &command;
  return nullptr;
}

bool has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Prints help or versions where that is what the words ask for.
bool answer(const std::vector<std::string>& words) {
  std::string text;
  if (words.empty() || words[0] == "--help")
    text = overview();
  else if (words[0] == "--version")
    text = version_text();
  else if (words[0] == "options" && (words.size() == 1 || has(words, "--markdown")))
    text = all_options_markdown();
  else if (const Command* command = find_command(words[0]); command && has(words, "--help"))
    text = command->describe().help();
  std::fputs(text.c_str(), stdout);
  return !text.empty();
}

/// Throws DataError if something printed has not reached stdout.
void flush_results() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw DataError("the results could not be written to standard output (is the disk full?)");
}

ConfigError unknown_command(const std::string& name) {
  if (name == "options") return ConfigError("graphlora options takes no argument but --markdown");
  std::vector<std::string> names{"options"};
  for (const Command& command : commands()) names.push_back(command.name);
  return ConfigError("unknown command '{}'; the nearest is {}; see graphlora --help", name,
                     nearest_name(name, names));
}

int run_program(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (answer(words)) {
    flush_results();
    return 0;
  }
  const Command* command = find_command(words[0]);
  const std::vector<std::string> arguments(words.begin() + 1, words.end());
  Job job(&argc, &argv, command ? job_guard(command->describe(), arguments) : JobGuard{});
  int code = 0;
  const int failure = job.run([&] {
    job.agree([&] {
      if (!command) throw unknown_command(words[0]);
    });
    code = command->run(job, arguments);
    job.agree(flush_results);
  });
  return failure != 0 ? failure : code;
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  graphlora::bound_primitive_cache();
  try {
    return graphlora::run_program(argc, argv);
  } catch (const graphlora::Error& error) {
    graphlora::log::print(fmt::format("error: {}\n", error.what()));
    return static_cast<int>(error.code());
  }
}
