// How jobs end, seen from outside: exit code, what is printed, and that no rank is left waiting.
// Not an MPI program itself: it starts job_probe with and without mpirun.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <string>

#include "support/temporary_directory.hpp"

namespace {

/// A shell command with its output (stdout and stderr) in a pipe.
class Process {
 public:
  explicit Process(const std::string& command) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) throw std::runtime_error("pipe");
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      dup2(ends[1], STDERR_FILENO);
      close(ends[0]);
      close(ends[1]);
      execl("/bin/sh", "sh", "-c", ("exec " + command).c_str(), nullptr);
      _exit(127);
    }
    close(ends[1]);
    output_fd_ = ends[0];
  }
  ~Process() { close(output_fd_); }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const { kill(pid_, number); }
  /// Reads until `text` has come `times` times, or the output ends.
  bool wait_for(const std::string& text, int times = 1) {
    while (count(text) < times)
      if (!read_more()) return false;
    return true;
  }
  /// Exit code, 128 + number for a signal.
  int finish() {
    while (read_more()) {
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& output() const { return output_; }
  int count(const std::string& text) const {
    int found = 0;
    for (std::size_t at = output_.find(text); at != std::string::npos;
         at = output_.find(text, at + text.size()))
      ++found;
    return found;
  }

 private:
  bool read_more() {
    std::array<char, 4096> part{};
    const ssize_t bytes = read(output_fd_, part.data(), part.size());
    if (bytes <= 0) return false;
    output_.append(part.data(), static_cast<std::size_t>(bytes));
    return true;
  }

  pid_t pid_ = 0;
  int output_fd_ = -1;
  std::string output_;
};

std::string alone(const std::string& arguments) {
  return fmt::format("timeout 60 {} {}", JOB_PROBE, arguments);
}
std::string ranks(int count, const std::string& arguments) {
  return fmt::format("timeout 60 {} --oversubscribe --bind-to none -np {} {} {}", MPIEXEC, count,
                     JOB_PROBE, arguments);
}

struct Ending {
  const char* kind;
  int code;
  const char* cause;
};
constexpr std::array kEndings{
    Ending{"config", 2, "--flag is wrong"},
    Ending{"data", 3, "file.txt:3: no number"},
    Ending{"communication", 4, "a message got lost"},
    Ending{"memory", 70, "out of memory; this rank had "},
    Ending{"tensor", 70, "out of memory (can't allocate memory: you tried to allocate "},
    Ending{"system", 3, "x: No space left on device"},
    Ending{"json", 3, "[json.exception.out_of_range.403] key 'x' not found"},
    Ending{"standard", 70, "a bug"},
    Ending{"torch", 70, "a bug in shapes"}};

TEST(Job, ExceptionOnOneRankEndsAllWithItsCodeAndSaysWhere) {
  for (const Ending& ending : kEndings) {
    const auto start = std::chrono::steady_clock::now();
    Process job(ranks(3, fmt::format("alone {} 1", ending.kind)));
    EXPECT_EQ(job.finish(), ending.code) << job.output();
    EXPECT_EQ(job.count("error: rank 1 on "), 1) << job.output();
    EXPECT_EQ(job.count(fmt::format(", step 7: {}", ending.cause)), 1) << job.output();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  }
}

TEST(Job, ExceptionInASingleProcessIsOneLine) {
  for (const Ending& ending : kEndings) {
    Process job(alone(fmt::format("alone {} 0", ending.kind)));
    EXPECT_EQ(job.finish(), ending.code);
    EXPECT_TRUE(job.output().starts_with(fmt::format("error: {}", ending.cause))) << job.output();
    EXPECT_TRUE(job.output().ends_with(" (step 7)\n")) << job.output();
    EXPECT_EQ(job.count("\n"), 1) << job.output();
  }
}

TEST(Job, AgreedErrorIsPrintedOnceByRankZero) {
  for (const std::string failing : {"0 1 2", "2", "1 2"}) {
    for (const std::string mode : {"agree", "nested"}) {
      Process job(ranks(3, fmt::format("{} data {}", mode, failing)));
      EXPECT_EQ(job.finish(), 3) << job.output();
      EXPECT_EQ(job.count("error: file.txt:3: no number"), 1) << job.output();
      EXPECT_EQ(job.count("not reached"), 0) << job.output();
      EXPECT_EQ(job.count("MPI_ABORT"), 0) << job.output();
      EXPECT_EQ(job.count("(rank 2 on "), failing == "2" ? 1 : 0) << job.output();
    }
  }
}

TEST(Job, AgreedErrorInASingleProcess) {
  Process job(alone("agree config 0"));
  EXPECT_EQ(job.finish(), 2);
  EXPECT_EQ(job.output(), "error: --flag is wrong\n");
}

TEST(Job, AgreementWithoutFailureGoesOn) {
  Process job(ranks(2, "agree data"));
  EXPECT_EQ(job.finish(), 0) << job.output();
  EXPECT_EQ(job.count("not reached"), 2);
}

TEST(Job, MpirunForwardsSigusr1ToAllRanks) {
  Process job(ranks(2, "signal").substr(std::string("timeout 60 ").size()));
  ASSERT_TRUE(job.wait_for("ready", 2)) << job.output();
  job.signal(SIGUSR1);
  EXPECT_EQ(job.finish(), 5) << job.output();
  EXPECT_EQ(job.count("saved true"), 2) << job.output();
}

TEST(Job, ASingleProcessCatchesEachSignal) {
  for (const int number : {SIGUSR1, SIGTERM, SIGINT}) {
    Process job(std::string(JOB_PROBE) + " signal");
    ASSERT_TRUE(job.wait_for("ready"));
    job.signal(number);
    EXPECT_EQ(job.finish(), 5) << number;
    EXPECT_EQ(job.count("saved true"), 1) << job.output();
    EXPECT_EQ(job.count("a second signal ends"), number == SIGUSR1 ? 0 : 1);
  }
}

TEST(Job, OnlyWhoAsksCatchesSignalsAndUnderMpirunOnlySigusr1) {
  Process single(alone("handlers"));
  EXPECT_EQ(single.finish(), 0);
  EXPECT_EQ(single.output(),
            "before: usr1 false term false int false\nafter: usr1 true term true int true\n");
  Process job(ranks(2, "handlers"));
  EXPECT_EQ(job.finish(), 0);
  EXPECT_EQ(job.count("before: usr1 false term false int false\n"), 2) << job.output();
  EXPECT_EQ(job.count("after: usr1 true term false int false\n"), 2) << job.output();
}

TEST(Job, ThreadsAreSharedAmongRanksOfAHost) {
  Process job("taskset -c 0 env -u OMP_NUM_THREADS " + alone("threads"));
  EXPECT_EQ(job.finish(), 0);
  EXPECT_EQ(job.output(), "threads 1\n");
  Process given("env OMP_NUM_THREADS=3 " + alone("threads"));
  EXPECT_EQ(given.finish(), 0);
  EXPECT_EQ(given.output(), "threads 3\n");
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  Process shared("env -u OMP_NUM_THREADS " + ranks(2, "threads"));
  EXPECT_EQ(shared.finish(), 0);
  EXPECT_EQ(shared.count(fmt::format("threads {}\n", std::max(1L, cores / 2))), 2)
      << shared.output();
}

constexpr int kLimit = 3;

/// Ranks that part from one another, under a watchdog or in debug mode.
class Guarded : public testing::Test {
 protected:
  struct Result {
    int code;
    double seconds;
    std::string output;
    bool has(const std::string& text) const { return output.find(text) != std::string::npos; }
  };
  Result run(int count, const std::string& kind, bool debug = false) const {
    const auto start = std::chrono::steady_clock::now();
    Process job(ranks(count, fmt::format("guard {} {} {} part {}", kLimit, recordings().string(),
                                         debug ? 1 : 0, kind)));
    const int code = job.finish();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {code, seconds, job.output()};
  }
  std::filesystem::path recordings() const { return directory_ / "flight"; }
  bool recorded(int rank) const {
    return std::filesystem::exists(recordings() / fmt::format("rank-{:05}.json", rank));
  }
  /// Start of MPI, the limit, and five seconds; mpirun takes some more to end.
  static constexpr double kInTime = 1 + kLimit + 5 + 4;

  graphlora::TemporaryDirectory directory_;
};

TEST_F(Guarded, AStoppedRankIsNamedWithOperationAndStep) {
  const Result job = run(3, "stops");
  EXPECT_EQ(job.code, 4) << job.output;
  EXPECT_LT(job.seconds, kInTime);
  EXPECT_TRUE(job.has("s in all-reduce #")) << job.output;
  EXPECT_TRUE(job.has("20 bytes of metrics, ranks 0,1,2, step 3): rank 1 on ")) << job.output;
  EXPECT_TRUE(job.has(" does not respond (stopped, dead or cut off)")) << job.output;
  EXPECT_TRUE(recorded(0) && !recorded(1) && recorded(2));
}

TEST_F(Guarded, AStoppedRankIsNamedAtTheStartAndAtTheEnd) {
  const Result start = run(2, "start");
  EXPECT_EQ(start.code, 4) << start.output;
  EXPECT_LT(start.seconds, kInTime);
  EXPECT_TRUE(start.has("s in start of MPI #1")) << start.output;
  EXPECT_TRUE(start.has("rank 1 does not respond")) << start.output;
  const Result end = run(2, "end");
  EXPECT_EQ(end.code, 4) << end.output;
  EXPECT_LT(end.seconds, kInTime);
  EXPECT_TRUE(end.has("s in end of MPI #")) << end.output;
  EXPECT_TRUE(end.has(" does not respond")) << end.output;
}

TEST_F(Guarded, TheAxisOfAnOperationIsNamed) {
  const Result job = run(4, "axis");
  EXPECT_EQ(job.code, 4) << job.output;
  EXPECT_TRUE(job.has("(data #1, 20 bytes of metrics, ranks 1,3, step 3)")) << job.output;
}

TEST_F(Guarded, LongWorkOfOneRankEndsNothing) {
  const Result job = run(3, "agree");
  EXPECT_EQ(job.code, 0) << job.output;
  EXPECT_TRUE(job.has("is alive and at work")) << job.output;
  EXPECT_FALSE(recorded(0));
}

TEST_F(Guarded, DifferentOperationsAreToldBothWays) {
  const Result job = run(3, "operation");
  EXPECT_EQ(job.code, 4) << job.output;
  EXPECT_LT(job.seconds, kInTime + 0.3 * kLimit);
  EXPECT_TRUE(job.has("all ranks wait for one another: ")) << job.output;
  EXPECT_TRUE(job.has("ranks 0, 2 in all-reduce #")) << job.output;
  EXPECT_TRUE(job.has("rank 1 in barrier #")) << job.output;
  EXPECT_TRUE(recorded(0) && recorded(1) && recorded(2));
  const Result debug = run(3, "operation", /*debug=*/true);
  EXPECT_EQ(debug.code, 4) << debug.output;
  EXPECT_LT(debug.seconds, kLimit + 3.0);
  EXPECT_TRUE(
      debug.has("step 3: the ranks are not in the same operation: ranks 0,2: all-reduce of "
                "metrics, 5 Float, sum; rank 1: barrier"))
      << debug.output;
}

TEST_F(Guarded, DebugTellsOtherSizesAndRoots) {
  const Result size = run(3, "size", /*debug=*/true);
  EXPECT_EQ(size.code, 4) << size.output;
  EXPECT_TRUE(
      size.has("rank 1: broadcast of metrics, 3 Float from rank 0; ranks 0,2: broadcast of "
               "metrics, 5 Float from rank 0"))
      << size.output;
  const Result root = run(3, "root", /*debug=*/true);
  EXPECT_EQ(root.code, 4) << root.output;
  EXPECT_TRUE(root.has("rank 1: broadcast of metrics, 5 Float from rank 1")) << root.output;
}

// Open MPI 4.1 may wait for ever where a message is longer than what was asked for.
TEST_F(Guarded, MoreRowsThanExpectedAreNoHang) {
  const Result job = run(3, "rows");
  EXPECT_EQ(job.code, 4) << job.output;
  EXPECT_LT(job.seconds, kInTime + 0.3 * kLimit);
  EXPECT_TRUE(job.has("all-to-all of rows")) << job.output;
  const Result debug = run(3, "rows", /*debug=*/true);
  EXPECT_EQ(debug.code, 4) << debug.output;
  EXPECT_TRUE(
      debug.has("all-to-all of rows of halo, rows of 160000 bytes (Float): rank 0 sends 3 "
                "rows to rank 1, which expects 2"))
      << debug.output;
}

TEST_F(Guarded, AFailureAloneLeavesARecording) {
  Process job(ranks(2, fmt::format("guard {} {} 0 alone data 1", kLimit, recordings().string())));
  EXPECT_EQ(job.finish(), 3) << job.output();
  EXPECT_TRUE(recorded(1));
  EXPECT_FALSE(recorded(0));
}

TEST_F(Guarded, AKilledRankIsNamed) {
  Process job(ranks(3, fmt::format("guard {} {} 0 alone kill 1", kLimit, recordings().string())));
  EXPECT_NE(job.finish(), 0);
  EXPECT_EQ(job.count("process rank 1 with PID "), 1) << job.output();
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
