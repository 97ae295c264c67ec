// The program as a user meets it: help, versions, and what it says to wrong flags.
#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "cli/commands.hpp"
#include "core/error.hpp"
#include "dist/device.hpp"
#include "support/process.hpp"

namespace graphlora {
namespace {

using test::error_lines;
using test::ProcessResult;
using test::run_process;

ProcessResult graphlora_run(std::vector<std::string> words) {
  words.insert(words.begin(), GRAPHLORA_BINARY);
  return run_process(words);
}

/// Exit code 2 and one line of error that contains each of `parts`.
void expect_usage_error(const std::vector<std::string>& words,
                        const std::vector<std::string>& parts) {
  const ProcessResult result = graphlora_run(words);
  const std::string command = testing::PrintToString(words);
  EXPECT_EQ(result.code, 2) << command << result.err;
  EXPECT_EQ(result.out, "") << command;
  const auto errors = error_lines(result.err);
  ASSERT_EQ(errors.size(), 1u) << command << result.err;
  EXPECT_EQ(result.err, errors[0] + "\n") << command;
  for (const std::string& part : parts) {
    EXPECT_NE(errors[0].find(part), std::string::npos) << command << ": " << errors[0];
  }
}

/// Flags that satisfy a command's required options; none of the files exist.
std::vector<std::string> required_flags(const Command& command) {
  std::vector<std::string> flags{command.name};
  const OptionTable table = command.describe();
  std::istringstream lines(table.markdown());
  for (std::string line; std::getline(lines, line);) {
    if (line.find("| *required* |") == std::string::npos) continue;
    const auto begin = line.find("--"), end = line.find('`', begin);
    const std::string name = line.substr(begin, end - begin);
    flags.push_back(name);
    const bool is_number =
        name == "--parts" || name == "--users" || name == "--items" || name == "--interactions";
    flags.push_back(is_number            ? "2"
                    : name == "--format" ? "csv"
                    : name == "--what"   ? "adapter"
                                         : "/nonexistent/path");
  }
  return flags;
}

std::vector<std::string> with(std::vector<std::string> flags,
                              const std::vector<std::string>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

bool computes_on_gpus(const Command& command) {
  const std::string name = command.name;
  const std::set<std::string> computing{"train", "evaluate", "recommend", "benchmark", "doctor"};
  return computing.contains(name);
}

TEST(Usage, OverviewNamesEveryCommand) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{}, {"--help"}}) {
    const ProcessResult result = graphlora_run(words);
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    for (const Command& command : commands()) {
      EXPECT_NE(result.out.find(fmt::format("\n  {} ", command.name)), std::string::npos);
      EXPECT_NE(result.out.find(command.describe().summary()), std::string::npos);
    }
  }
}

TEST(Usage, OptionsWithoutEffectAreRefused) {
  const std::vector<std::string> prepare{"prepare", "--input", "x", "--output", "y", "--format"};
  expect_usage_error(with(prepare, {"movielens-1m", "--csv.titles", "t.csv"}),
                     {"--csv.titles: is for --format csv only, not movielens-1m"});
  expect_usage_error(with(prepare, {"movielens-csv", "--csv.header", "false"}), {"--csv.header"});
  expect_usage_error(with(prepare, {"csv", "--amazon.metadata", "none"}), {"--amazon.metadata"});
  expect_usage_error(with(prepare, {"csv", "--activity-rule", "k-core"}), {"--min-activity"});
  expect_usage_error({"partition", "--data", "x", "--parts", "2", "--partition.method", "random",
                      "--partition.max-degree", "9"},
                     {"--partition.max-degree", "no effect"});
}

TEST(Usage, ARandomPartitionIsComparedWithItselfOnce) {
  const TemporaryDirectory folder;
  const std::string data = folder / "d";
  ASSERT_EQ(graphlora_run({"generate", "--users", "60", "--items", "30", "--interactions", "900",
                           "--output", data})
                .code,
            0);
  const auto heading = [&](const std::vector<std::string>& more) {
    const ProcessResult result =
        graphlora_run(with({"partition", "--data", data, "--parts", "2"}, more));
    EXPECT_EQ(result.code, 0) << result.err;
    std::istringstream lines(result.out);
    std::string line;
    for (int i = 0; i < 3; ++i) std::getline(lines, line);
    std::istringstream words(line);
    return std::vector<std::string>(std::istream_iterator<std::string>(words), {});
  };
  using Words = std::vector<std::string>;
  EXPECT_EQ(heading({}), (Words{"metis", "random"}));
  EXPECT_EQ(heading({"--partition.method", "random"}), (Words{"this", "one"}));
  EXPECT_EQ(heading({"--partition.method", "random", "--partition.hubs", "2"}),
            (Words{"this", "one", "without", "hubs", "random"}));
}

TEST(Usage, VersionNamesTheLibraries) {
  const ProcessResult result = graphlora_run({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(result.out.find("graphlora " GRAPHLORA_VERSION), 0u);
  for (const char* library : {"LibTorch 2", "MPI ", "METIS    5"}) {
    EXPECT_NE(result.out.find(library), std::string::npos) << result.out;
  }
}

TEST(Usage, HelpOfEveryCommandExplainsEveryOption) {
  for (const Command& command : commands()) {
    const ProcessResult result = graphlora_run({command.name, "--help"});
    EXPECT_EQ(result.code, 0) << command.name;
    EXPECT_EQ(result.err, "") << command.name;
    EXPECT_NE(result.out.find("Examples:\n"), std::string::npos) << command.name;
    EXPECT_NE(result.out.find(fmt::format("\n  graphlora {}", command.name)), std::string::npos)
        << command.name << ": no example of its own";
    const OptionTable table = command.describe();
    for (const auto& [name, value] : table.values()) {
      EXPECT_NE(result.out.find("--" + name + " "), std::string::npos)
          << command.name << " --" << name;
    }
    std::istringstream lines(table.markdown());
    for (std::string line; std::getline(lines, line);) {
      EXPECT_FALSE(line.starts_with("| `--") && line.ends_with("|  |")) << line;
    }
  }
}

TEST(Usage, EveryCommandHasTheCommonOptions) {
  for (const Command& command : commands()) {
    const std::string help = command.describe().help();
    for (const char* name :
         {"--seed", "--device", "--comm", "--precision", "--threads", "--config"}) {
      EXPECT_NE(help.find(name), std::string::npos) << command.name << " " << name;
    }
  }
}

TEST(Usage, OptionsPrintsAllOfThem) {
  const ProcessResult plain = graphlora_run({"options"});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.err, "");
  EXPECT_EQ(plain.out.find("# Configuration\n"), 0u);
  EXPECT_EQ(graphlora_run({"options", "--markdown"}).out, plain.out);
  expect_usage_error({"options", "--json"}, {"takes no argument but --markdown"});
}

TEST(Usage, ResultsThatCannotBeWrittenAreAnError) {
  for (const char* words : {"--help", "--version", "options", "train --help",
                            "inspect --json tests/golden/tiny_llama"}) {
    const ProcessResult result =
        run_process({"sh", "-c", fmt::format("exec '{}' {} > /dev/full", GRAPHLORA_BINARY, words)});
    EXPECT_EQ(result.code, 3) << words;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1u) << words << ": " << result.err;
  }
}

TEST(Usage, HelpStartsWithinHalfASecond) {
  // Processor time: the clock on the wall also counts what else the machine is doing.
  double fastest = 1e9;
  for (int attempt = 0; attempt < 5; ++attempt) {
    fastest = std::min(fastest, graphlora_run({"--help"}).cpu_seconds);
  }
  EXPECT_LT(fastest, 0.5);
}

TEST(Usage, UnknownCommandNamesTheNearest) {
  expect_usage_error({"trian"}, {"unknown command 'trian'", "the nearest is train"});
  expect_usage_error({"--trian"}, {"unknown command '--trian'", "the nearest is train"});
  expect_usage_error({"evalute", "--help"}, {"the nearest is evaluate"});
  expect_usage_error({""}, {"unknown command ''"});
  expect_usage_error({"two\nlines"}, {"unknown command 'two lines'"});
}

/// As expect_usage_error for words that begin with a command, without a process: the program's
/// first act with them is to parse them.
void expect_parse_error(const Command& command, const std::vector<std::string>& flags,
                        const std::vector<std::string>& parts) {
  const std::vector<std::string> arguments(flags.begin() + 1, flags.end());
  const std::string all = command.name + testing::PrintToString(arguments);
  try {
    command.describe().parse(arguments);
    ADD_FAILURE() << all << ": accepted";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << all << ": " << message;
    }
  }
}

TEST(Usage, WrongFlagsOfEveryCommand) {
  for (const Command& command : commands()) {
    const auto flags = required_flags(command);
    expect_usage_error(with(flags, {"--precison", "fp32"}),
                       {"unknown flag --precison", "nearest is --precision"});
    if (flags.size() > 1) expect_parse_error(command, {command.name}, {"is required"});
    const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
        {{"--prec", "fp32"}, "unknown flag --prec of"},
        {{"--seed", "1", "--seed", "2"}, "--seed is given twice"},
        {{"--seed", "-1"}, "--seed: must be at least 0, got -1"},
        {{"--seed", "x"}, "--seed: expected a whole number, got 'x'"},
        {{"--threads", "1000000"}, "--threads: must be between"},
        {{"--precision", "fp16"}, "--precision: must be one of bf16"},
        {{"--device", "gpu"}, "--device: must be one of auto"},
        {{"--seed"}, "--seed"},
        {{"unexpected", "words"}, "unexpected argument"}};
    for (const auto& [more, part] : cases) expect_parse_error(command, with(flags, more), {part});
    if (computes_on_gpus(command)) continue;
    expect_parse_error(command, with(flags, {"--device", "cuda"}),
                       {"--device: this command computes on the CPU; use auto or cpu"});
    expect_parse_error(command, with(flags, {"--comm", "nccl"}),
                       {"--comm: this command computes on the CPU; use auto or mpi"});
  }
}

TEST(Usage, AGpuThatIsNotThereIsAnError) {
  const std::string reason = why_no_cuda();
  if (reason.empty()) GTEST_SKIP() << "needs a machine without a GPU";
  // What else these refuse to start without.
  const std::map<std::string, std::vector<std::string>> further{
      {"evaluate", {"--pretrained", "y"}},
      {"recommend", {"--pretrained", "y", "--user", "1"}},
      {"benchmark", {"--data", "x", "--model", "y", "--pretrained", "z"}}};
  for (const Command& command : commands()) {
    // The doctor reports it among its checks (doctor_test).
    if (!computes_on_gpus(command) || std::string(command.name) == "doctor") continue;
    auto flags = required_flags(command);
    if (const auto more = further.find(command.name); more != further.end())
      flags = with(flags, more->second);
    expect_usage_error(with(flags, {"--device", "cuda"}), {"--device cuda: " + reason});
    expect_usage_error(with(flags, {"--comm", "nccl"}),
                       {"--comm nccl: it needs a GPU for every rank: " + reason});
    expect_usage_error(with(flags, {"--comm", "nccl", "--device", "cpu"}), {"--device is cpu"});
  }
}

TEST(Usage, IniFilesOfEveryCommand) {
  const TemporaryDirectory directory;
  const std::string path = directory / "x.ini";
  for (const Command& command : commands()) {
    const auto flags = with(required_flags(command), {"--config", path});
    directory.write("x.ini", "seed = 3\n\nthreds = 2\n");
    expect_usage_error(flags, {path + ":3: unknown option threds", "nearest is threads"});
    const std::vector<std::pair<std::string, std::string>> cases{
        {"seed = 3\nseed = 4\n", ":2: seed is given twice"},
        {"[lora]\nseed = 3\n",
         ":2: unknown option lora.seed; 'seed' stands above the first section"},
        {"precision = fp16\n", ":1: precision: must be one of"},
        {"nonsense\n", ":1: expected key = value"}};
    for (const auto& [text, part] : cases) {
      directory.write("x.ini", text);
      expect_parse_error(command, flags, {path + part});
    }
    expect_parse_error(command, with(required_flags(command), {"--config", "/nonexistent.ini"}),
                       {"--config: /nonexistent.ini"});
  }
}

TEST(Usage, TrainReadsEveryConfiguration) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    if (entry.path().extension() != ".ini") continue;
    ++files;
    const ProcessResult result =
        graphlora_run({"train", "--config", entry.path().string(), "--data", "/nonexistent/data",
                       "--model", "/nonexistent/model", "--pretrained", "/nonexistent/pretrained",
                       "--output", "/nonexistent/output"});
    EXPECT_EQ(result.code, 3) << entry.path() << result.err;
    EXPECT_NE(result.err.find("/nonexistent/data"), std::string::npos) << result.err;
  }
  EXPECT_GE(files, 4);
}

TEST(Usage, FlagsWinOverTheIniFile) {
  const TemporaryDirectory directory;
  const std::string path =
      directory.write("x.ini", "data = /nonexistent/from-file\nprecision = fp16\n");
  const ProcessResult from_file =
      graphlora_run({"partition", "--parts", "1", "--config", path, "--precision", "fp32"});
  EXPECT_EQ(from_file.code, 3) << from_file.err;
  EXPECT_NE(from_file.err.find("/nonexistent/from-file"), std::string::npos) << from_file.err;
  const ProcessResult from_flag =
      graphlora_run({"partition", "--parts", "1", "--config", path, "--precision", "fp32", "--data",
                     "/nonexistent/from-flag"});
  EXPECT_EQ(from_flag.code, 3);
  EXPECT_NE(from_flag.err.find("/nonexistent/from-flag"), std::string::npos) << from_flag.err;
}

TEST(Usage, UnderMpirunAnErrorIsPrintedOnce) {
  const ProcessResult result =
      run_process({MPIEXEC, "--oversubscribe", "--bind-to", "none", "-np", "2", GRAPHLORA_BINARY,
                   "partition", "--data", "x", "--parts", "2", "--sede", "1"});
  EXPECT_EQ(result.code, 2) << result.err;
  const auto errors = error_lines(result.err);
  ASSERT_EQ(errors.size(), 1u) << result.err;
  EXPECT_NE(errors[0].find("the nearest is --seed"), std::string::npos) << errors[0];
}

}  // namespace
}  // namespace graphlora
