// A run that a signal interrupts and --resume continues, through the real program: it ends with the
// same bytes as one that was left alone, and refuses to go on as another run.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/tiny_ratings.hpp"
#include "core/file.hpp"
#include "core/run_lock.hpp"
#include "support/process.hpp"
#include "train/checkpoint.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;
using test::error_lines;
using test::ProcessResult;
using test::run_process;

using Words = std::vector<std::string>;

constexpr int kSteps = 24;

class ResumeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    write_file(root() / "ratings.csv", test::tiny_ratings(20, 10, 16));
    write_file(root() / "templates.txt", test::kTinyTemplates);
    for (const Words& words :
         {Words{"prepare", "--input", at("ratings.csv"), "--format", "csv", "--output",
                at("dataset"), "--split", "user-time", "--split.valid", "0.3"},
          Words{"pretrain", "--data", at("dataset"), "--output", at("pretrained"),
                "--pretrain.width", "6", "--pretrain.epochs", "2"}}) {
      const ProcessResult result = graphlora_run(words);
      ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
    }
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static fs::path root() { return directory_->path(); }
  static std::string at(const char* name) { return (root() / name).string(); }
  static ProcessResult graphlora_run(Words words, std::function<bool()> interrupt = {}) {
    words.insert(words.begin(), GRAPHLORA_BINARY);
    return run_process(words, std::chrono::seconds(120), std::move(interrupt));
  }
  /// Flags of training: a schedule, two stages, a validation at every step, dropout; those of
  /// `more` win.
  static Words train(const char* output, const Words& more = {}) {
    Words words{"train",
                "--data",
                at("dataset"),
                "--model",
                "tests/golden/tiny_llama",
                "--pretrained",
                at("pretrained"),
                "--output",
                at(output),
                "--prompt.templates",
                at("templates.txt"),
                "--steps",
                std::to_string(kSteps),
                "--batch-size",
                "4",
                "--precision",
                "fp32",
                "--lora.rank",
                "2",
                "--lora.dropout",
                "0.1",
                "--train.stages",
                "projector,joint",
                "--optim.warmup",
                "5",
                "--eval-every",
                "1",
                "--keep",
                "0"};
    for (std::size_t i = 0; i < more.size(); ++i) {
      const bool has_value = i + 1 < more.size() && !more[i + 1].starts_with("--");
      const auto found = std::find(words.begin(), words.end(), more[i]);
      if (found != words.end() && has_value) {
        *(found + 1) = more[++i];
        continue;
      }
      words.push_back(more[i]);
      if (has_value) words.push_back(more[++i]);
    }
    return words;
  }
  /// Lines of metrics.jsonl without what depends on the clock or the machine.
  static std::vector<nlohmann::json> metrics(const char* output) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(read_file(root() / output / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      auto json = nlohmann::json::parse(line);
      for (const char* key : {"step_seconds", "tokens_per_s", "communication_seconds",
                              "exposed_communication_seconds", "phase_seconds", "traffic_seconds",
                              "exposed_traffic_seconds", "peak_memory_bytes", "examples_per_s"})
        json.erase(key);
      lines.push_back(json);
    }
    return lines;
  }

  static std::unique_ptr<TemporaryDirectory> directory_;
};
std::unique_ptr<TemporaryDirectory> ResumeTest::directory_;

TEST_F(ResumeTest, AnInterruptedRunEndsWithTheSameBytes) {
  ASSERT_EQ(graphlora_run(train("whole")).code, 0);

  const fs::path log = root() / "parts" / "metrics.jsonl";
  int interrupts = 0;
  // Stopped twice, wherever the signal happens to fall, then left alone.
  for (; interrupts < 2; ++interrupts) {
    std::error_code error;
    const auto size_before = fs::file_size(log, error);
    const auto begun = error ? 0 : size_before;
    const ProcessResult result = graphlora_run(train("parts", {"--resume"}), [&] {
      std::error_code ignored;
      const auto size = fs::file_size(log, ignored);
      return !ignored && size > begun;
    });
    ASSERT_EQ(result.code, 5) << result.err;
    ASSERT_NE(read_file(root() / "parts" / "LATEST"), fmt::format("step-{:06}\n", kSteps));
  }
  const ProcessResult last = graphlora_run(train("parts", {"--resume"}));
  ASSERT_EQ(last.code, 0) << last.err;

  const std::string step = fmt::format("step-{:06}", kSteps);
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(root() / "whole" / step)) {
    if (entry.path().extension() != ".safetensors") continue;
    const fs::path other =
        root() / "parts" / step / entry.path().lexically_relative(root() / "whole" / step);
    EXPECT_EQ(sha256_file(entry.path()), sha256_file(other)) << other;
    ++files;
  }
  EXPECT_EQ(files, 4);  // adapter, graphlora, optimizer, embeddings
  EXPECT_EQ(read_file(root() / "parts" / "BEST"), read_file(root() / "whole" / "BEST"));
  EXPECT_EQ(metrics("parts"), metrics("whole"));
  EXPECT_EQ(metrics("whole").size(), 2U * kSteps);
}

/// A long validation does not hold up a signal, and is made up for by the run that goes on.
TEST_F(ResumeTest, AValidationIsInterrupted) {
  write_file(root() / "many.csv", test::tiny_ratings(300, 20, 50));
  for (const Words& words :
       {Words{"prepare", "--input", at("many.csv"), "--format", "csv", "--output", at("many"),
              "--split", "user-time", "--split.valid", "0.6"},
        Words{"pretrain", "--data", at("many"), "--output", at("many_pretrained"),
              "--pretrain.width", "6", "--pretrain.epochs", "1"}}) {
    const ProcessResult result = graphlora_run(words);
    ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
  }
  const auto flags = [](const char* output) {
    return Words{"train",
                 "--data",
                 at("many"),
                 "--model",
                 "tests/golden/tiny_llama",
                 "--pretrained",
                 at("many_pretrained"),
                 "--output",
                 at(output),
                 "--prompt.templates",
                 at("templates.txt"),
                 "--steps",
                 "1",
                 "--batch-size",
                 "4",
                 "--precision",
                 "fp32",
                 "--eval-every",
                 "1",
                 "--resume"};
  };
  ASSERT_EQ(graphlora_run(flags("validated")).code, 0);
  const fs::path log = root() / "stopped" / "metrics.jsonl";
  // The line of step 1 is written before the validation begins.
  const ProcessResult stopped = graphlora_run(flags("stopped"), [&] {
    std::error_code ignored;
    const auto size = fs::file_size(log, ignored);
    return !ignored && size > 0;
  });
  ASSERT_EQ(stopped.code, 5) << stopped.err;
  EXPECT_EQ(metrics("stopped").size(), 1U) << "the validation was over before the signal came";
  EXPECT_EQ(read_file(root() / "stopped" / "LATEST"), "step-000001\n");
  ASSERT_EQ(graphlora_run(flags("stopped")).code, 0);
  EXPECT_EQ(metrics("stopped"), metrics("validated"));
  EXPECT_EQ(metrics("validated").size(), 2U);
}

TEST_F(ResumeTest, AStoppedRunStaysStopped) {
  const Words patience{"--train.patience", "2", "--optim.lr", "0"};
  ASSERT_EQ(graphlora_run(train("early", patience)).code, 0);
  const std::string latest = read_file(root() / "early" / "LATEST");
  EXPECT_EQ(latest, "step-000003\n");
  Words again = patience;
  again.push_back("--resume");
  const ProcessResult result = graphlora_run(train("early", again));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(read_file(root() / "early" / "LATEST"), latest);
}

TEST_F(ResumeTest, AnotherConfigurationIsRefusedByName) {
  const auto base = [](const Words& more) {
    Words words = train("named", {"--resume"});
    for (std::size_t i = 0; i < more.size(); i += 2) {
      const auto found = std::find(words.begin(), words.end(), more[i]);
      if (found != words.end()) {
        *(found + 1) = more[i + 1];
      } else {
        words.insert(words.end(), {more[i], more[i + 1]});
      }
    }
    return words;
  };
  ASSERT_EQ(graphlora_run(base({"--steps", "1"})).code, 0);
  write_file(root() / "other.txt",
             "[template]\n{user} {item} ?\n[empty history]\n{user} {item} ?\n");
  const std::map<std::string, std::string> changes{{"--seed", "2"},
                                                   {"--batch-size", "5"},
                                                   {"--lora.alpha", "4"},
                                                   {"--lora.targets", "q_proj"},
                                                   {"--lora.dropout", "0"},
                                                   {"--inject.layers", "0"},
                                                   {"--inject.lambda-gnn", "2"},
                                                   {"--gnn.layers", "1"},
                                                   {"--score", "yes"},
                                                   {"--prompt.history", "2"},
                                                   {"--precision", "fp64"},
                                                   {"--graph.cut", "none"},
                                                   {"--optim.type", "sgd"},
                                                   {"--projector.middle", "5"},
                                                   {"--prompt.templates", at("other.txt")}};
  for (const auto& [option, value] : changes) {
    const ProcessResult result = graphlora_run(base({"--steps", "2", option, value}));
    EXPECT_EQ(result.code, 2) << option << ": " << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1U) << option << ": " << result.err;
    EXPECT_NE(errors[0].find(option), std::string::npos) << errors[0];
    EXPECT_EQ(read_file(root() / "named" / "LATEST"), "step-000001\n");
  }
  // What may change is told.
  const ProcessResult result = graphlora_run(base({"--steps", "2", "--optim.lr", "0.5"}));
  EXPECT_EQ(result.code, 0);
  for (const char* change : {"--steps was 1, now 2", "--optim.lr was 0.001, now 0.5"})
    EXPECT_NE(result.err.find(change), std::string::npos) << change << ": " << result.err;
}

/// Options of a short run without validation, every step of which is saved.
Words short_run(int steps, const Words& more = {}) {
  Words words{"--steps", std::to_string(steps), "--save-every", "1", "--eval-every", "0"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// Names of everything below, with the checksums of files.
std::map<std::string, std::string> listing(const fs::path& root) {
  std::map<std::string, std::string> entries;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    entries[entry.path().lexically_relative(root).string()] =
        entry.is_regular_file() ? sha256_file(entry.path()) : "";
  return entries;
}

void halve(const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 2); }

/// Changes a manifest, and its checksum where `bless`.
void edit_manifest(const fs::path& step, const std::function<void(nlohmann::json&)>& edit,
                   bool bless = true) {
  nlohmann::json manifest = read_json(step / "manifest.json");
  edit(manifest);
  if (bless) manifest["checksum"] = manifest_checksum(manifest);
  write_json(step / "manifest.json", manifest);
}

TEST_F(ResumeTest, ADamagedStepIsPassedOver) {
  ASSERT_EQ(graphlora_run(train("sound", short_run(5))).code, 0);
  const auto whole = listing(root() / "sound/step-000005");
  // The same run when it had made three steps.
  fs::copy(root() / "sound", root() / "three", fs::copy_options::recursive);
  for (const char* later : {"step-000004", "step-000005"}) fs::remove_all(root() / "three" / later);
  write_file(root() / "three/LATEST", "step-000003\n");
  const std::map<std::string, std::function<void(const fs::path&)>> damages{
      {"a file cut", [](const fs::path& r) { halve(r / "step-000003/graphlora.safetensors"); }},
      {"a byte flipped",
       [](const fs::path& r) {
         std::fstream file(r / "step-000003/optimizer.safetensors",
                           std::ios::in | std::ios::out | std::ios::binary);
         file.seekp(-1, std::ios::end);
         file.put('\x55');
       }},
      {"no manifest", [](const fs::path& r) { fs::remove(r / "step-000003/manifest.json"); }},
      {"a number of the manifest",
       [](const fs::path& r) {
         edit_manifest(
             r / "step-000003", [](nlohmann::json& j) { j["sampler"]["seed"] = 2; }, false);
       }},
      {"the step is gone", [](const fs::path& r) { fs::remove_all(r / "step-000003"); }},
      {"LATEST is cut", [](const fs::path& r) { write_file(r / "LATEST", "ste"); }},
      {"LATEST is gone", [](const fs::path& r) { fs::remove(r / "LATEST"); }},
      {"replaced on a disk that can't swap names",
       [](const fs::path& r) { fs::rename(r / "step-000003", r / "step-000003.old-77"); }},
      {"left by killed runs", [](const fs::path& r) {
         fs::create_directories(r / "step-000009.tmp-nowhere-1");
         write_file(r / "LATEST.tmp-nowhere-1", "x");
         fs::create_directories(r / "step-000002.old-best");  // not by a run
       }}};
  for (const auto& [name, damage] : damages) {
    SCOPED_TRACE(name);
    fs::remove_all(root() / "hurt");
    fs::copy(root() / "three", root() / "hurt", fs::copy_options::recursive);
    damage(root() / "hurt");
    const ProcessResult result = graphlora_run(train("hurt", short_run(5, {"--resume"})));
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(listing(root() / "hurt/step-000005"), whole);
    EXPECT_EQ(read_file(root() / "hurt/LATEST"), "step-000005\n");
    const bool step_is_whole =
        name.starts_with("LATEST") || name.starts_with("replaced") || name.starts_with("left");
    const int resumed = step_is_whole ? 3 : 2;
    EXPECT_NE(result.err.find(fmt::format("after step {}", resumed)), std::string::npos)
        << result.err;
    const bool warned = result.err.find("passes over") != std::string::npos;
    EXPECT_EQ(warned, !name.starts_with("replaced") && !name.starts_with("left")) << result.err;
    for (const auto& entry : fs::directory_iterator(root() / "hurt")) {
      const std::string file = entry.path().filename();
      EXPECT_EQ(file.find(".tmp-"), std::string::npos) << file;
      EXPECT_NE(file, "lock");
    }
    EXPECT_EQ(fs::exists(root() / "hurt/step-000002.old-best"), name.starts_with("left"));
    // What is damaged is kept, under another name.
    EXPECT_EQ(fs::exists(root() / "hurt/step-000003.damaged"),
              !step_is_whole && name != "the step is gone");
  }
}

TEST_F(ResumeTest, WhatCannotBeResumedIsNamedAndKept) {
  ASSERT_EQ(graphlora_run(train("some", short_run(2))).code, 0);
  struct Case {
    const char* name;
    std::function<void(const fs::path&)> change;
    Words more;
    int code;
    std::string expected;
  };
  const auto manifest = [](std::function<void(nlohmann::json&)> edit) {
    return [=](const fs::path& r) { edit_manifest(r / "step-000002", edit); };
  };
  const std::vector<Case> cases{
      {"no whole step",
       [](const fs::path& r) {
         halve(r / "step-000001/optimizer.safetensors");
         halve(r / "step-000002/manifest.json");
       },
       {"--resume"},
       3,
       "no whole step"},
      {"a newer format",
       manifest([](nlohmann::json& j) { j["format"] = 3; }),
       {"--resume"},
       3,
       "written by a newer version"},
      {"an older format",
       manifest([](nlohmann::json& j) { j["format"] = 0; }),
       {"--resume"},
       3,
       "has format 0"},
      {"files elsewhere",
       [](const fs::path& r) {
         fs::remove_all(r / "step-000001");
         edit_manifest(r / "step-000002", [](nlohmann::json& j) {
           j["files"]["../LATEST"] = {{"bytes", 12}, {"sha256", ""}};
         });
       },
       {"--resume"},
       3,
       "outside of the step"},
      {"a file unlisted",
       [](const fs::path& r) {
         fs::remove_all(r / "step-000001");
         edit_manifest(r / "step-000002",
                       [](nlohmann::json& j) { j["files"].erase("graphlora.safetensors"); });
       },
       {"--resume"},
       3,
       "lists no graphlora.safetensors"},
      {"of another dataset",
       manifest([](nlohmann::json& j) { j["dataset"]["fingerprint"] = "0"; }),
       {"--resume"},
       3,
       "another dataset"},
      {"of another model",
       manifest([](nlohmann::json& j) { j["base_model"]["fingerprint"] = "0"; }),
       {"--resume"},
       3,
       "another base model"},
      {"without --resume", [](const fs::path&) {}, {}, 2, "already holds a run"},
      {"without --resume, no LATEST",
       [](const fs::path& r) { fs::remove(r / "LATEST"); },
       {},
       2,
       "already holds a run"}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    fs::remove_all(root() / "case");
    fs::copy(root() / "some", root() / "case", fs::copy_options::recursive);
    c.change(root() / "case");
    const auto before = listing(root() / "case");
    const ProcessResult result = graphlora_run(train("case", short_run(4, c.more)));
    EXPECT_EQ(result.code, c.code) << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1U) << result.err;
    EXPECT_NE(errors[0].find(c.expected), std::string::npos) << errors[0];
    EXPECT_EQ(listing(root() / "case"), before);
  }
  // Directories of another kind, with and without --resume.
  for (const char* foreign : {"dataset", "pretrained", "some/step-000001"}) {
    const auto before = listing(root() / foreign);
    for (const Words& more : {Words{}, Words{"--resume"}}) {
      const ProcessResult result = graphlora_run(train(foreign, short_run(1, more)));
      EXPECT_EQ(result.code, 2) << result.err;
      EXPECT_NE(result.err.find("no run's directory"), std::string::npos) << result.err;
    }
    EXPECT_EQ(listing(root() / foreign), before);
  }
  fs::create_directories(root() / "empty");
  EXPECT_EQ(graphlora_run(train("empty", short_run(1, {"--resume"}))).code, 0);
}

/// As earlier versions have written it: without a checksum of itself.
TEST_F(ResumeTest, TheOldFormatIsRead) {
  ASSERT_EQ(graphlora_run(train("new", short_run(2))).code, 0);
  fs::copy(root() / "new", root() / "old", fs::copy_options::recursive);
  nlohmann::json manifest = read_json(root() / "old/step-000002/manifest.json");
  manifest["format"] = 1;
  manifest.erase("checksum");
  manifest["sampler"].erase("groups_asked");
  manifest.erase("course");
  write_json(root() / "old/step-000002/manifest.json", manifest);
  for (const char* run : {"new", "old"})
    ASSERT_EQ(graphlora_run(train(run, short_run(3, {"--resume"}))).code, 0);
  EXPECT_EQ(listing(root() / "old/step-000003"), listing(root() / "new/step-000003"));
}

TEST_F(ResumeTest, OtherWindowsAreRefusedBeforeThePartitionIsRebuilt) {
  const Words windows{"--graph.cut", "window", "--graph.groups", "4"};
  ASSERT_EQ(graphlora_run(train("windows", short_run(1, windows))).code, 0);
  const auto before = listing(root() / "dataset");
  const ProcessResult result = graphlora_run(
      train("windows", short_run(2, {"--graph.cut", "window", "--graph.groups", "3", "--resume"})));
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_NE(result.err.find("--graph.groups was 4"), std::string::npos) << result.err;
  EXPECT_EQ(listing(root() / "dataset"), before);
  Words again = windows;
  again.push_back("--resume");
  EXPECT_EQ(graphlora_run(train("windows", short_run(2, again))).code, 0);
}

TEST_F(ResumeTest, AnotherDatasetsPartitionIsLeftAlone) {
  ASSERT_EQ(graphlora_run(train("mine", short_run(1))).code, 0);
  write_file(root() / "other.csv", test::tiny_ratings(20, 10, 15));
  ASSERT_EQ(graphlora_run(
                {"prepare", "--input", at("other.csv"), "--format", "csv", "--output", at("other")})
                .code,
            0);
  ASSERT_EQ(graphlora_run({"partition", "--data", at("other"), "--parts", "1"}).code, 0);
  const auto before = listing(root() / "other");
  const ProcessResult result =
      graphlora_run(train("mine", short_run(2, {"--resume", "--data", at("other")})));
  EXPECT_EQ(result.code, 3) << result.err;
  EXPECT_NE(result.err.find("belongs to another dataset"), std::string::npos) << result.err;
  EXPECT_EQ(listing(root() / "other"), before);
}

TEST_F(ResumeTest, ASecondRunIsRefused) {
  ASSERT_EQ(graphlora_run(train("busy", short_run(1))).code, 0);
  {
    const RunLock lock(root() / "busy");
    const ProcessResult result = graphlora_run(train("busy", short_run(2, {"--resume"})));
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_NE(result.err.find(fmt::format("process {} on ", getpid())), std::string::npos)
        << result.err;
    EXPECT_NO_THROW(lock.check());
  }
  EXPECT_EQ(graphlora_run(train("busy", short_run(2, {"--resume"}))).code, 0);
  EXPECT_FALSE(fs::exists(root() / "busy/lock"));
}

/// A step that can't be saved is a warning; the last one is the run's error.
TEST_F(ResumeTest, AFileInTheWay) {
  for (const int step : {2, 4}) {
    const std::string name = fmt::format("way{}", step);
    fs::create_directories(root() / name);
    const fs::path file = root() / name / fmt::format("step-{:06}", step);
    write_file(file, "mine");
    const ProcessResult result = graphlora_run(train(name.c_str(), short_run(4)));
    EXPECT_EQ(result.code, step == 4 ? 3 : 0) << result.err;
    EXPECT_NE(result.err.find(fmt::format("warning: step {} is not saved", step)),
              std::string::npos)
        << result.err;
    EXPECT_EQ(error_lines(result.err).size(), step == 4 ? 1U : 0U) << result.err;
    EXPECT_EQ(read_file(root() / name / "LATEST"), step == 4 ? "step-000003\n" : "step-000004\n");
    EXPECT_EQ(read_file(file), "mine");
    EXPECT_EQ(metrics(name.c_str()).size(), 4U);
  }
}

/// A disk with room for one step and a half.
TEST_F(ResumeTest, AFullDisk) {
  ASSERT_EQ(graphlora_run(train("room", short_run(4))).code, 0);
  std::size_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(root() / "room/step-000001"))
    bytes += entry.is_regular_file() ? (entry.file_size() + 4095) / 4096 * 4096 : 4096;
  const fs::path disk = root() / "disk";
  fs::create_directories(disk);
  const auto size = [&](std::size_t times_2) {
    return fmt::format("size={}", bytes * times_2 / 2 + 16384);
  };
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, size(3).c_str()) != 0)
    GTEST_SKIP() << "mounting a tmpfs needs root with CAP_SYS_ADMIN";
  const ProcessResult full = graphlora_run(train("disk/run", short_run(3)));
  EXPECT_EQ(full.code, 3) << full.err;
  for (const int step : {2, 3}) {
    EXPECT_NE(full.err.find(fmt::format("warning: step {} is not saved", step)), std::string::npos)
        << full.err;
  }
  const auto errors = error_lines(full.err);
  EXPECT_EQ(errors.size(), 1U) << full.err;
  EXPECT_NE(full.err.find("No space left on device"), std::string::npos) << full.err;
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(disk / "run"))
    names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"LATEST", "metrics.jsonl", "step-000001"}));
  // With more room the run goes on, and ends as if nothing had been.
  EXPECT_EQ(mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, size(20).c_str()), 0);
  const ProcessResult more = graphlora_run(train("disk/run", short_run(4, {"--resume"})));
  EXPECT_EQ(more.code, 0) << more.err;
  EXPECT_EQ(listing(disk / "run/step-000004"), listing(root() / "room/step-000004"));
  EXPECT_EQ(metrics("disk/run"), metrics("room"));
  umount(disk.c_str());
}

/// A signal while a step is being written: that one is finished, the present one is saved.
TEST_F(ResumeTest, ASignalDuringASave) {
  const Words long_run = short_run(100000);
  const auto writing = [&] {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(root() / "signal", error))
      if (entry.path().filename().string().find(".tmp-") != std::string::npos &&
          entry.path().filename().string().starts_with("step-"))
        return true;
    return false;
  };
  const ProcessResult result = graphlora_run(train("signal", long_run), writing);
  EXPECT_EQ(result.code, 5) << result.err;
  std::string latest = read_file(root() / "signal/LATEST");
  latest.pop_back();
  const int step = std::stoi(latest.substr(5));
  EXPECT_EQ(metrics("signal").back()["step"], step);
  EXPECT_NO_THROW(Checkpoint(root() / "signal" / latest, true, true));
  for (const auto& entry : fs::directory_iterator(root() / "signal"))
    EXPECT_EQ(entry.path().filename().string().find(".tmp-"), std::string::npos) << entry.path();
  EXPECT_FALSE(fs::exists(root() / "signal/lock"));
}

/// An interrupted pretraining claims no result, and the same command starts over.
TEST_F(ResumeTest, AnInterruptedPretrainingWritesNothing) {
  const Words words{
      "pretrain",         "--data", at("dataset"),       "--output",  at("factors"),
      "--pretrain.width", "6",      "--pretrain.epochs", "900000000", "--pretrain.patience",
      "900000000"};
  const auto started = [&] {
    for (const auto& entry : fs::directory_iterator(root()))
      if (entry.path().filename().string().starts_with("factors.tmp-")) return true;
    return false;
  };
  const ProcessResult result = graphlora_run(words, started);
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("nothing is written"), std::string::npos) << result.err;
  EXPECT_FALSE(started());
  EXPECT_FALSE(fs::exists(root() / "factors"));
}

/// Killed while it builds; the next one builds it whole, and nothing is left over.
TEST_F(ResumeTest, AnInterruptedPartitionIsRebuilt) {
  ASSERT_EQ(graphlora_run({"generate", "--users", "4000", "--items", "800", "--interactions",
                           "60000", "--output", at("generated")})
                .code,
            0);
  const Words words{"partition", "--data", at("generated"), "--parts", "7"};
  const fs::path parts = root() / "generated/partition-7";
  ASSERT_EQ(graphlora_run(words).code, 0);
  const auto checksum = sha256_file(parts / "part-00003.safetensors");
  bool killed = false;
  for (int attempt = 0; attempt < 20 && !killed; ++attempt) {
    fs::remove_all(parts);
    const auto building = [&] {
      for (const auto& entry : fs::directory_iterator(root() / "generated"))
        if (entry.path().filename().string().find(".tmp-") != std::string::npos) return true;
      return false;
    };
    killed = graphlora_run(words, building).signal == SIGUSR1;
    EXPECT_TRUE(!killed || !fs::exists(parts));
  }
  EXPECT_TRUE(killed);
  EXPECT_EQ(graphlora_run(words).code, 0);
  EXPECT_EQ(sha256_file(parts / "part-00003.safetensors"), checksum);
  for (const auto& entry : fs::directory_iterator(root() / "generated"))
    EXPECT_EQ(entry.path().filename().string().find(".tmp-"), std::string::npos) << entry.path();
}

}  // namespace
}  // namespace graphlora
