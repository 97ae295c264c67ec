// Runs that go wrong, through the real program: ranks that are killed or stopped, training that
// diverges, memory that runs out.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "cli/tiny_ratings.hpp"
#include "core/file.hpp"
#include "support/process.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;
using test::error_lines;
using test::ProcessResult;
using test::run_process;

using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

constexpr const char* kTag = "GRAPHLORA_FAILURE_TEST";

/// The process of a rank that this test has started; 0 where there is none yet.
pid_t process_of_rank(const std::string& tag, int rank) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "environ");
    bool ours = false, rank_fits = false;
    for (std::string word; std::getline(file, word, '\0');) {
      ours = ours || word == fmt::format("{}={}", kTag, tag);
      rank_fits = rank_fits || word == fmt::format("OMPI_COMM_WORLD_RANK={}", rank);
    }
    if (ours && rank_fits) return static_cast<pid_t>(std::stol(name));
  }
  return 0;
}

/// Whether a process has opened a socket, as a rank does from within MPI_Init.
bool has_socket(pid_t process) {
  std::error_code error;
  fs::directory_iterator file(fmt::format("/proc/{}/fd", process), error);
  for (; !error && file != fs::directory_iterator(); file.increment(error)) {
    std::error_code gone;
    if (fs::read_symlink(file->path(), gone).string().starts_with("socket:")) return true;
  }
  return false;
}

class FailureTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    write_file(root() / "ratings.csv", test::tiny_ratings(20, 10, 16));
    write_file(root() / "templates.txt", test::kTinyTemplates);
    for (const Words& words :
         {Words{"prepare", "--input", at("ratings.csv"), "--format", "csv", "--output",
                at("dataset"), "--split", "user-time", "--split.valid", "0.3"},
          Words{"pretrain", "--data", at("dataset"), "--output", at("pretrained"),
                "--pretrain.width", "6", "--pretrain.epochs", "2"},
          Words{"generate", "--users", "30000", "--items", "5000", "--interactions", "600000",
                "--communities", "20", "--output", at("large")}}) {
      const ProcessResult result = run(1, words);
      ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
    }
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static fs::path root() { return directory_->path(); }
  static std::string at(const char* name) { return (root() / name).string(); }

  static Words command(int ranks, const Words& words) {
    Words all;
    if (ranks > 1)
      all = {MPIEXEC, "--oversubscribe", "--bind-to", "none", "-np", std::to_string(ranks)};
    all.emplace_back(GRAPHLORA_BINARY);
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }
  static ProcessResult run(int ranks, const Words& words) {
    return run_process(command(ranks, words));
  }

  struct Struck {
    ProcessResult process;
    double after = -1;  ///< seconds from the signal to the end; −1: the moment never came
  };
  /// Runs two ranks and sends rank 1 a signal once `now` is true and, unless `unborn`, its process
  /// is some milliseconds old: it has a socket.
  static Struck strike(const Words& words, int signal, const std::function<bool()>& now,
                       bool unborn = false) {
    static int runs = 0;
    const std::string tag = fmt::format("{}-{}", getpid(), ++runs);
    setenv(kTag, tag.c_str(), 1);
    Struck struck;
    Clock::time_point when;
    bool done = false;
    struck.process = run_process(command(2, words), std::chrono::seconds(120), [&] {
      if (done || !now()) return false;
      const pid_t process = process_of_rank(tag, 1);
      if (process == 0 || (!unborn && !has_socket(process))) return false;
      kill(process, signal);
      when = Clock::now();
      done = true;
      return false;
    });
    if (done) struck.after = std::chrono::duration<double>(Clock::now() - when).count();
    unsetenv(kTag);
    return struck;
  }

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
                "--batch-size",
                "4",
                "--precision",
                "fp32",
                "--lora.rank",
                "2"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// Lines of OUTPUT/metrics.jsonl.
  static int lines(const char* output) {
    std::ifstream file(root() / output / "metrics.jsonl");
    int count = 0;
    for (std::string line; std::getline(file, line);) ++count;
    return count;
  }

  static std::unique_ptr<TemporaryDirectory> directory_;
};
std::unique_ptr<TemporaryDirectory> FailureTest::directory_;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Whether something in `directory` is being written: it has a temporary name.
bool writing(const fs::path& directory, const std::string& prefix) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && has(name, ".tmp")) return true;
  }
  return false;
}

TEST_F(FailureTest, AKilledRankEndsTheJobAtAnyMomentAndIsNamed) {
  const Words steps{"--steps", "400", "--save-every", "5", "--eval-every", "0"};
  const Words evaluations{"--steps", "100", "--save-every", "10", "--eval-every", "1"};
  const Words saves{"--steps", "100", "--save-every", "1", "--eval-every", "0"};
  struct Moment {
    const char* name;
    Words words;
    std::function<bool()> now;
    bool unborn = false;
  };
  const Moment moments[] = {
      {"birth", train("birth", steps), [] { return true; }, true},
      {"start", train("start", steps), [] { return true; }},
      {"partition",
       {"partition", "--data", at("large"), "--parts", "2"},
       [] { return writing(root() / "large", "partition-2"); }},
      {"collective", train("collective", steps), [] { return lines("collective") > 5; }},
      {"evaluation", train("evaluation", evaluations),
       [] { return lines("evaluation") % 2 == 1 && lines("evaluation") > 2; }},
      {"save", train("save", saves),
       [] { return lines("save") > 2 && writing(root() / "save", "step-"); }},
  };
  for (const Moment& moment : moments) {
    const Struck struck = strike(moment.words, SIGKILL, moment.now, moment.unborn);
    ASSERT_GE(struck.after, 0) << moment.name << ": " << struck.process.err;
    fmt::print("killed at {}: ended {:.1f} s later with {}\n", moment.name, struck.after,
               struck.process.code);
    EXPECT_LT(struck.after, 20) << moment.name;
    EXPECT_EQ(struck.process.code, 137) << moment.name;
    const std::string said = struck.process.err + struck.process.out;
    // In the milliseconds before mpirun has entered the new process as running, it knows that one
    // has died and not which.
    EXPECT_TRUE(has(said, "process rank 1 with PID ") ||
                (moment.unborn && has(said, "1 process returned")))
        << moment.name << ": " << said;
  }
}

TEST_F(FailureTest, AStoppedRankIsNamedInTraining) {
  const Struck struck =
      strike(train("stopped", {"--steps", "400", "--eval-every", "0", "--comm.timeout", "3"}),
             SIGSTOP, [] { return lines("stopped") > 5; });
  ASSERT_GE(struck.after, 0) << struck.process.err;
  fmt::print("stopped in training: ended {:.1f} s later\n", struck.after);
  EXPECT_EQ(struck.process.code, 4) << struck.process.err;
  EXPECT_LT(struck.after, 3 + 5 + 4);  // mpirun takes its time
  const auto errors = error_lines(struck.process.err);
  ASSERT_EQ(errors.size(), 1U) << struck.process.err;
  EXPECT_TRUE(errors[0].starts_with("error: rank 0 on ")) << errors[0];
  EXPECT_TRUE(has(errors[0], ", ranks 0,1, step ")) << errors[0];
  EXPECT_TRUE(has(errors[0], " does not respond (stopped, dead or cut off)")) << errors[0];

  const ProcessResult report = run(1, {"inspect", at("stopped/flight")});
  EXPECT_EQ(report.code, 0) << report.err;
  EXPECT_TRUE(has(report.out, "1: rank 1 left no recording")) << report.out;
  const ProcessResult one = run(1, {"inspect", at("stopped/flight/rank-00000.json"), "--json"});
  EXPECT_EQ(one.code, 0) << one.err;
  const auto json = nlohmann::json::parse(one.out);
  EXPECT_EQ(json.at("reason"), "hang");
  EXPECT_EQ(json.at("message"), errors[0].substr(0, json.at("message").get<std::string>().size()));
}

TEST_F(FailureTest, AnUndisturbedRunLeavesNoRecording) {
  const ProcessResult result =
      run(2, train("quiet", {"--steps", "3", "--comm.timeout", "5", "--comm.debug"}));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(fs::exists(root() / "quiet" / "flight"));
  EXPECT_FALSE(fs::exists("graphlora-flight"));
}

TEST_F(FailureTest, ATimeLimitOfNothingIsRefused) {
  for (const std::string value : {"0", "-1", "x"}) {
    for (const int ranks : {1, 2}) {
      const ProcessResult result = run(ranks, train("limit", {"--comm.timeout", value}));
      EXPECT_EQ(result.code, 2) << result.err;
      const auto errors = error_lines(result.err);
      ASSERT_EQ(errors.size(), 1U) << result.err;
      EXPECT_TRUE(has(errors[0], "--comm.timeout")) << errors[0];
    }
  }
  EXPECT_FALSE(fs::exists(root() / "limit"));
}

TEST_F(FailureTest, DivergenceStopsWithTheBatchAndTheNormsAndKeepsWhatWasSaved) {
  for (const int ranks : {1, 2}) {
    const std::string output = fmt::format("diverged-{}", ranks);
    const ProcessResult result = run(
        ranks, train(output.c_str(), {"--steps", "50", "--save-every", "1", "--keep", "0",
                                      "--eval-every", "0", "--optim.lr", "1000", "--optim.schedule",
                                      "constant", "--optim.weight-decay", "10"}));
    EXPECT_EQ(result.code, 3) << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1U) << result.err;
    EXPECT_TRUE(has(errors[0], "training diverged")) << errors[0];
    EXPECT_TRUE(has(errors[0], "dataset rows of the batch: ")) << errors[0];
    for (const char* group : {"\nadapters ", "\nprojector ", "\ngnn ", "\nembeddings "})
      EXPECT_TRUE(has(result.err, group)) << result.err;
    const int step = std::stoi(errors[0].substr(errors[0].find("step ") + 5));
    ASSERT_GT(step, 1) << "a learning rate that breaks the first step tests no checkpoint";
    EXPECT_EQ(read_file(root() / output / "LATEST"), fmt::format("step-{:06}\n", step - 1));
    EXPECT_FALSE(fs::exists(root() / output / fmt::format("step-{:06}", step)));
    EXPECT_EQ(run(1, {"inspect", at(output.c_str())}).code, 0);
    EXPECT_EQ(fs::exists(root() / output / "flight" / "rank-00000.json"), ranks > 1);
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they map terabytes
TEST_F(FailureTest, MemoryThatRunsOutIsNamed) {
  for (const int ranks : {1, 2}) {
    const Words pretrain =
        command(ranks, {"pretrain", "--data", at("large"), "--output", at("wide"),
                        "--pretrain.width", "65536", "--comm.dump", at("flight")});
    Words words{"sh", "-c", "ulimit -v 6000000; exec \"$0\" \"$@\""};
    words.insert(words.end(), pretrain.begin(), pretrain.end());
    const ProcessResult result = run_process(words);
    EXPECT_EQ(result.code, 70) << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_GE(errors.size(), 1U) << result.err;
    EXPECT_TRUE(has(errors[0], "out of memory")) << errors[0];
    EXPECT_TRUE(has(errors[0], "give each rank more memory")) << errors[0];
    EXPECT_EQ(has(errors[0], "(rank ") || has(errors[0], "error: rank "), ranks > 1) << errors[0];
    EXPECT_FALSE(fs::exists(at("wide")));
  }
}
#endif

}  // namespace
}  // namespace graphlora
