// A run that a signal interrupts and --resume continues, through the real program: it ends with the
// same bytes as one that was left alone, and refuses to go on as another run.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/file.hpp"
#include "support/process.hpp"

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
    std::string ratings = "user,item,time,rating,title\n";
    for (int user = 0; user < 20; ++user) {
      for (int i = 0; i < 10; ++i) {
        const int item = (user * 3 + i * 2) % 16;
        ratings += fmt::format("u{},i{},{},{},Title {}\n", user, item, 1000 + 10 * i + user,
                               1 + (user + item * 2) % 5, item);
      }
    }
    write_file(root() / "ratings.csv", ratings);
    write_file(root() / "templates.txt",
               "[template]\nL {history} {user} T {title} {item} ?\n[empty history]\n{user} T "
               "{title} {item} ?\n");
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
  /// Flags of training: a schedule, two stages, a validation at every step, dropout.
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
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// Lines of metrics.jsonl without what depends on the clock or the machine.
  static std::vector<nlohmann::json> metrics(const char* output) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(read_file(root() / output / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      auto json = nlohmann::json::parse(line);
      for (const char* key :
           {"step_seconds", "tokens_per_s", "communication_seconds",
            "exposed_communication_seconds", "peak_memory_bytes", "examples_per_s"})
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
  std::string ratings = "user,item,time,rating,title\n";
  for (int user = 0; user < 300; ++user) {
    for (int i = 0; i < 20; ++i)
      ratings += fmt::format("u{},i{},{},{},Title {}\n", user, (user * 3 + i * 2) % 50,
                             1000 + 10 * i + user, 1 + (user + i * 2) % 5, i);
  }
  write_file(root() / "many.csv", ratings);
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
  EXPECT_EQ(graphlora_run(base({"--steps", "2"})).code, 0);
}

}  // namespace
}  // namespace graphlora
