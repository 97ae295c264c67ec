// Job scripts: what a site file becomes, and what can't get into one.
#include "cli/batch_script.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "core/error.hpp"
#include "support/process.hpp"

namespace graphlora {
namespace {

using test::error_lines;
using test::ProcessResult;
using test::run_process;

std::string script_of(const std::vector<std::string>& flags) {
  BatchJob job;
  OptionTable table("slurm");
  add_batch_options(table, job);
  table.parse(flags);
  return batch_script(job, "/opt/it's/graphlora");
}

std::vector<std::string> sbatch_lines(const std::string& script) {
  std::vector<std::string> lines;
  std::istringstream stream(script);
  for (std::string line; std::getline(stream, line);)
    if (line.starts_with("#SBATCH ")) lines.push_back(line.substr(8));
  return lines;
}

bool has_line(const std::string& script, const std::string& line) {
  return ("\n" + script).find("\n" + line + "\n") != std::string::npos;
}

ProcessResult slurm(std::vector<std::string> words) {
  words.insert(words.begin(), {GRAPHLORA_BINARY, "slurm"});
  return run_process(words);
}

TEST(BatchScript, AsksForWhatTheSiteSays) {
  const std::string script = script_of({"--partition",      "gpu,long",
                                        "--account",        "me",
                                        "--time",           "1-12:00:00",
                                        "--nodes",          "2",
                                        "--tasks-per-node", "4",
                                        "--cpus-per-task",  "16",
                                        "--memory",         "480G",
                                        "--gpus-per-node",  "4",
                                        "--gpu-type",       "a100",
                                        "--constraint",     "a100&hbm80g",
                                        "--sbatch",         "--exclusive  -wn1"});
  EXPECT_EQ(sbatch_lines(script),
            (std::vector<std::string>{
                "--job-name=graphlora", "--partition=gpu,long", "--account=me",
                "--constraint=a100&hbm80g", "--time=1-12:00:00", "--nodes=2", "--ntasks-per-node=4",
                "--cpus-per-task=16", "--mem=480G", "--gpus-per-node=a100:4", "--output=%x-%j.out",
                "--open-mode=append", "--requeue", "--signal=B:USR1@120", "--exclusive", "-wn1"}))
      << script;
}

TEST(BatchScript, LeavesOutWhatIsNotSaid) {
  const std::string script = script_of({});
  EXPECT_EQ(sbatch_lines(script),
            (std::vector<std::string>{"--job-name=graphlora", "--nodes=1", "--ntasks-per-node=1",
                                      "--output=%x-%j.out", "--open-mode=append", "--requeue",
                                      "--signal=B:USR1@120"}));
  EXPECT_EQ(script.find("module load"), std::string::npos);
  EXPECT_FALSE(has_line(script, "GRAPHLORA_CONTAINER=''"));
}

TEST(BatchScript, AsksForGpusAsTheSiteWants) {
  const std::vector<std::string> gpus{"--gpus-per-node", "8", "--gpu-request", "gres"};
  EXPECT_TRUE(has_line(script_of(gpus), "#SBATCH --gres=gpu:8"));
  EXPECT_TRUE(
      has_line(script_of({"--gpus-per-node", "8", "--gpu-request", "gres", "--gpu-type", "h100"}),
               "#SBATCH --gres=gpu:h100:8"));
}

TEST(BatchScript, ModulesAndPrologueComeBeforeTheRun) {
  const std::string script =
      script_of({"--modules", "gcc/12.2,openmpi", "--prologue", "export A='b c'; ulimit -l 1"});
  const auto modules = script.find("\nmodule load gcc/12.2 openmpi\n"),
             prologue = script.find("\nexport A='b c'; ulimit -l 1\n"),
             body = script.find("\nset -euo pipefail\n");
  EXPECT_LT(modules, prologue);
  EXPECT_LT(prologue, body);
  EXPECT_NE(body, std::string::npos);
}

TEST(BatchScript, ContainersGoInFrontOfTheProgram) {
  const std::string apptainer =
      script_of({"--container", "apptainer", "--image", "/i.sif", "--container-options",
                 "--bind /scratch", "--gpus-per-node", "1"});
  EXPECT_TRUE(has_line(
      apptainer,
      "GRAPHLORA_CONTAINER=${GRAPHLORA_CONTAINER:-'apptainer exec --nv --bind /scratch /i.sif'}"));
  EXPECT_TRUE(has_line(apptainer, "GRAPHLORA_BIN=${GRAPHLORA_BIN:-'graphlora'}"));
  const std::string enroot = script_of({"--container", "enroot", "--image", "/i.sqsh"});
  EXPECT_TRUE(has_line(enroot, "GRAPHLORA_SRUN_ARGS+=' --container-image=/i.sqsh '"));
  EXPECT_TRUE(has_line(enroot, "GRAPHLORA_LAUNCHER=${GRAPHLORA_LAUNCHER:-'srun'}"));
}

/// What the settings of a script become in an environment: NAME, where `variables` are set.
std::string setting_of(const std::string& script, const std::string& name,
                       std::vector<std::string> variables) {
  const TemporaryDirectory folder;
  const std::string path =
      folder.write("x.sh", script.substr(0, script.find("# ---- From here on")) + "printf %s \"$" +
                               name + "\"\n");
  variables.insert(variables.begin(), "env");
  variables.insert(variables.end(), {"bash", path});
  return run_process(variables).out;
}

TEST(BatchScript, TheEnvironmentCannotTakeTheImageAway) {
  const std::string script = script_of(
      {"--container", "enroot", "--image", "/i.sqsh", "--srun-options", "--cpu-bind=cores"});
  EXPECT_EQ(setting_of(script, "GRAPHLORA_SRUN_ARGS", {"GRAPHLORA_SRUN_ARGS=--cpu-bind=none"}),
            "--cpu-bind=none --container-image=/i.sqsh ");
  EXPECT_EQ(setting_of(script, "GRAPHLORA_SRUN_ARGS", {"-u", "GRAPHLORA_SRUN_ARGS"}),
            "--cpu-bind=cores --container-image=/i.sqsh ");
}

TEST(BatchScript, QuotesWhatTheShellReads) {
  const std::string script = script_of({"--args=--data 'a b' --seed $(reboot)"});
  EXPECT_TRUE(has_line(
      script, R"(GRAPHLORA_ARGS=${GRAPHLORA_ARGS:-'--data '\''a b'\'' --seed $(reboot)'})"));
  EXPECT_TRUE(has_line(script, R"(GRAPHLORA_BIN=${GRAPHLORA_BIN:-'/opt/it'\''s/graphlora'})"));
  // What bash reads is what was given.
  EXPECT_EQ(setting_of(script, "GRAPHLORA_ARGS", {"-u", "GRAPHLORA_ARGS"}),
            "--data 'a b' --seed $(reboot)");
  EXPECT_EQ(setting_of(script, "GRAPHLORA_BIN", {"-u", "GRAPHLORA_BIN"}), "/opt/it's/graphlora");
}

TEST(BatchScript, NothingCanEndALineOrAWord) {
  const std::vector<std::pair<std::string, std::string>> wrong{
      {"partition", "gpu\n#SBATCH --uid=0"},
      {"partition", "gpu --uid=0"},
      {"account", "a\"b"},
      {"qos", "a'b"},
      {"constraint", "a\\b"},
      {"job-name", "a#b"},
      {"log", "$HOME/x"},
      {"reservation", "a\tb"},
      {"time", "1:00\n"},
      {"time", "tomorrow"},
      {"memory", "lots"},
      {"memory", std::string(100'000, '1')},
      {"gpu-type", "a100:8"},
      {"sbatch", "--exclusive\n--uid=0"},
      {"sbatch", "reboot"},
      {"sbatch", "--comment=\"a"},
      {"modules", "gcc;reboot"},
      {"modules", "-h"},
      {"prologue", "a\nb"},
      {"args", "a\nb"},
      {"args", std::string("a\0b", 3)},
      {"image", "a\nb"},
      {"command", "train;reboot"},
      {"container-options", "a\rb"},
      {"max-restarts", "0"},
      {"max-restarts", "-1"},
      {"nodes", "0"},
      {"warning-seconds", "0"},
      {"launcher", "ssh"}};
  for (const auto& [name, value] : wrong) {
    try {
      script_of({"--" + name + "=" + value});
      ADD_FAILURE() << name << " " << value << ": accepted";
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()).find("--" + name), 0u) << error.what();
    }
  }
}

TEST(BatchScript, OptionsThatDontFitAreNamed) {
  using Flags = std::vector<std::string>;
  const std::vector<std::pair<Flags, std::string>> wrong{
      {{"--container", "apptainer"}, "--image"},
      {{"--image", "x.sif"}, "--container"},
      {{"--gpu-type", "a100"}, "--gpus-per-node is 0"},
      {{"--container", "enroot", "--image", "x", "--launcher", "mpirun"}, "pyxis"}};
  for (const auto& [flags, part] : wrong) {
    try {
      script_of(flags);
      ADD_FAILURE() << part;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

TEST(BatchScript, EverySiteFileGivesAScriptThatBashReads) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("configs/sites")) {
    ++files;
    const ProcessResult result = slurm({"--site", entry.path().string(), "--dry-run"});
    EXPECT_EQ(result.code, 0) << entry.path() << result.err;
    EXPECT_EQ(result.err, "");
    const TemporaryDirectory folder;
    const ProcessResult bash = run_process({"bash", "-n", folder.write("x.sh", result.out)});
    EXPECT_EQ(bash.code, 0) << entry.path() << bash.err;
    for (const std::string& line : sbatch_lines(result.out))
      EXPECT_EQ(line.find('$'), std::string::npos) << line;
  }
  EXPECT_GE(files, 5);
}

TEST(SlurmCommand, FlagsWinOverTheSiteFile) {
  const TemporaryDirectory folder;
  const std::string site = folder.write("s.ini", "partition = gpu\nnodes = 4\n");
  const ProcessResult result = slurm({"--site", site, "--nodes", "7", "--dry-run"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(has_line(result.out, "#SBATCH --partition=gpu"));
  EXPECT_TRUE(has_line(result.out, "#SBATCH --nodes=7"));
}

TEST(SlurmCommand, NamesWhatIsWrongWithASiteFile) {
  const TemporaryDirectory folder;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"partitoin = gpu\n",
       ":1: unknown option partitoin of graphlora slurm; the nearest is "
       "partition"},
      {"nodes = 2\n\nmax-restarts = 0\n", ":3: max-restarts: must be between 1"},
      {"partition = a b\n", ":1: partition: must not contain ' '"}};
  for (const auto& [text, part] : cases) {
    const std::string site = folder.write("s.ini", text);
    const ProcessResult result = slurm({"--site", site, "--dry-run"});
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find(site + part), std::string::npos) << result.err;
  }
  const ProcessResult missing = slurm({"--site", folder / "none.ini", "--dry-run"});
  EXPECT_EQ(missing.code, 2);
  EXPECT_EQ(error_lines(missing.err).size(), 1u) << missing.err;
  EXPECT_NE(missing.err.find("--site " + (folder / "none.ini").string()), std::string::npos)
      << missing.err;
}

TEST(SlurmCommand, SaysWhereThereIsNoSlurm) {
  const TemporaryDirectory folder;
  const std::string site = folder.write("s.ini", "partition = gpu\n");
  const ProcessResult result = run_process({"env", "PATH=" + (folder / "no-programs").string(),
                                            GRAPHLORA_BINARY, "slurm", "--site", site});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.out, "");
  const auto errors = error_lines(result.err);
  ASSERT_EQ(errors.size(), 1u) << result.err;
  EXPECT_NE(errors[0].find("there is no sbatch on this machine"), std::string::npos) << errors[0];
}

}  // namespace
}  // namespace graphlora
