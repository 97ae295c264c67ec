// Watchdogs of several ranks, each in a process of its own as in a job, but without MPI: what they
// wait for is played by their recorders alone.
#include "dist/watchdog.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <functional>
#include <map>
#include <numeric>
#include <thread>

#include "core/file.hpp"
#include "dist/flight_report.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using Axis = std::shared_ptr<FlightAxis>;

constexpr milliseconds kLimit{4000};
constexpr double kLimitSeconds = 4;
constexpr std::int64_t kRun = 77;

struct Ending {
  int code = -1;     ///< exit status; −1: it had to be killed
  double after = 0;  ///< seconds
  std::string err;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class WatchdogTest : public testing::Test {
 protected:
  /// What a rank does.
  using Body = std::function<void(int rank, FlightRecorder&, const Axis&)>;

  fs::path recordings() const { return directory_ / "flight"; }

  /// Runs `body` in one process a rank under watchdogs; those that are left when all others have
  /// ended, or after a minute, are killed.
  std::vector<Ending> run(int ranks, const Body& body, milliseconds limit = kLimit,
                          int left_over = 0) {
    std::vector<pid_t> processes;
    std::fflush(stdout);
    const auto start = Clock::now();
    for (int rank = 0; rank < ranks; ++rank) {
      const pid_t process = fork();
      if (process == 0) play(rank, ranks, body, limit);
      processes.push_back(process);
    }
    std::vector<Ending> endings(processes.size());
    int ended = 0;
    while (ended < ranks - left_over && Clock::now() - start < std::chrono::minutes(1)) {
      for (std::size_t r = 0; r < processes.size(); ++r) {
        int status = 0;
        if (processes[r] == 0 || waitpid(processes[r], &status, WNOHANG) <= 0) continue;
        endings[r].code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        endings[r].after = std::chrono::duration<double>(Clock::now() - start).count();
        processes[r] = 0;
        ++ended;
      }
      usleep(5000);
    }
    for (std::size_t r = 0; r < processes.size(); ++r) {
      if (processes[r] != 0) {
        kill(processes[r], SIGKILL);
        waitpid(processes[r], nullptr, 0);
      }
      endings[r].err = read_file(error_file(static_cast<int>(r)));
    }
    return endings;
  }

  /// Waits in an operation until `over`.
  static void wait_in(FlightRecorder& recorder, const char* name, const Axis& axis,
                      const std::function<bool()>& over) {
    const auto id = recorder.issue(name, "metrics", *axis, 8);
    const FlightRecorder::Waiting waiting(recorder, id);
    while (!over()) usleep(2000);
    recorder.complete(id);
  }
  static bool never() { return false; }
  static void compute_for(milliseconds time) {
    const auto end = Clock::now() + time;
    volatile double x = 1;
    while (Clock::now() < end) x = x * 1.0000001;
  }

  /// Of two ranks the other one is stopped: this one ends in time, saying `why`.
  void expect_end_beside_a_stopped_rank(const std::string& why) {
    const auto endings = run(
        2,
        [](int rank, FlightRecorder& recorder, const Axis& world) {
          if (rank == 1) raise(SIGSTOP);
          wait_in(recorder, "all-reduce", world, never);
        },
        kLimit, /*left_over=*/1);
    EXPECT_EQ(endings[0].code, 4) << endings[0].err;
    EXPECT_LT(endings[0].after, kLimitSeconds + 5);
    EXPECT_TRUE(has(endings[0].err, why)) << endings[0].err;
  }

  TemporaryDirectory directory_;

 private:
  fs::path error_file(int rank) const { return directory_ / fmt::format("err-{}", rank); }

  [[noreturn]] void play(int rank, int ranks, const Body& body, milliseconds limit) const {
    const int err = open(error_file(rank).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(err, STDERR_FILENO);
    alarm(60);
    const auto recorder = std::make_shared<FlightRecorder>();
    recorder->set_place({rank, ranks, kRun, std::vector<std::string>(ranks, "host")});
    std::vector<int> all(static_cast<std::size_t>(ranks));
    std::iota(all.begin(), all.end(), 0);
    const Axis world = recorder->add_axis("world", all);
    recorder->set_step(7);
    {
      const Watchdog watchdog(recorder, limit, recordings());
      body(rank, *recorder, world);
    }
    _exit(0);
  }
};

/// How often files of a directory are opened under their own names (not those they are written
/// under), and how often they get them.
class Opens {
 public:
  explicit Opens(const fs::path& directory) : events_(inotify_init1(IN_NONBLOCK)) {
    if (inotify_add_watch(events_, directory.c_str(), IN_OPEN | IN_MOVED_TO) < 0)
      throw std::runtime_error("inotify");
  }
  ~Opens() { close(events_); }
  Opens(const Opens&) = delete;
  Opens& operator=(const Opens&) = delete;

  void count() {
    alignas(inotify_event) std::array<char, 1 << 16> buffer;
    for (ssize_t bytes = 0; (bytes = read(events_, buffer.data(), buffer.size())) > 0;) {
      for (ssize_t at = 0; at < bytes;) {
        const auto& event = *reinterpret_cast<const inotify_event*>(buffer.data() + at);
        ++((event.mask & IN_OPEN) != 0 ? opened : renamed)[event.len > 0 ? event.name : ""];
        lost = lost || (event.mask & IN_Q_OVERFLOW) != 0;
        at += static_cast<ssize_t>(sizeof event + event.len);
      }
    }
  }

  std::map<std::string, int> opened, renamed;
  bool lost = false;

 private:
  int events_;
};

int lines(const std::string& text) {
  return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

TEST_F(WatchdogTest, AStoppedRankIsNamedWithinTheLimit) {
  const auto endings = run(
      3,
      [](int rank, FlightRecorder& recorder, const Axis& world) {
        wait_in(recorder, "barrier", world, [] { return true; });
        if (rank == 1) raise(SIGSTOP);
        wait_in(recorder, "all-reduce", world, never);
      },
      kLimit, /*left_over=*/1);
  EXPECT_EQ(endings[1].code, -1);
  for (const int rank : {0, 2}) {
    const Ending& ending = endings[static_cast<std::size_t>(rank)];
    EXPECT_EQ(ending.code, 4) << ending.err;
    EXPECT_GE(ending.after, kLimitSeconds);
    EXPECT_LT(ending.after, kLimitSeconds + 5);
    EXPECT_EQ(lines(ending.err), 1) << ending.err;
    EXPECT_TRUE(has(ending.err, fmt::format("error: rank {} on host waited ", rank))) << ending.err;
    EXPECT_TRUE(has(ending.err,
                    " s in all-reduce #2 (world #2, 8 bytes of metrics, ranks 0,1,2, "
                    "step 7): rank 1 on host does not respond"))
        << ending.err;
  }
  const auto report = compare_recordings(recordings());
  EXPECT_EQ(report.at("missing"), nlohmann::json({1})) << report.dump(1);
  EXPECT_EQ(report.at("recordings").at("rank 0").at("reason"), "hang");
}

TEST_F(WatchdogTest, ARankThatComputesIsWaitedFor) {
  const fs::path done = directory_ / "done";
  const auto endings = run(2, [&](int rank, FlightRecorder& recorder, const Axis& world) {
    if (rank == 1) {
      compute_for(kLimit * 5 / 2);
      write_file(done, "");
    }
    wait_in(recorder, "all-reduce", world, [&] { return fs::exists(done); });
    usleep(300'000);  // for the signs of life to be withdrawn
  });
  for (const Ending& ending : endings) EXPECT_EQ(ending.code, 0) << ending.err;
  EXPECT_EQ(lines(endings[0].err), 1) << endings[0].err;
  EXPECT_TRUE(has(endings[0].err, "rank 1 on host is alive and at work")) << endings[0].err;
  EXPECT_EQ(endings[1].err, "");
  EXPECT_TRUE(fs::is_empty(recordings()));
}

/// Rank 0 reads the signs for all others.
TEST_F(WatchdogTest, RankZeroIsNamedToo) {
  const auto endings = run(
      4,
      [](int rank, FlightRecorder& recorder, const Axis& world) {
        if (rank == 0 || rank == 2) raise(SIGSTOP);
        wait_in(recorder, "all-reduce", world, never);
      },
      kLimit, /*left_over=*/2);
  for (const int rank : {1, 3}) {
    const Ending& ending = endings[static_cast<std::size_t>(rank)];
    EXPECT_EQ(ending.code, 4) << ending.err;
    EXPECT_LT(ending.after, kLimitSeconds + 5);
    EXPECT_TRUE(has(ending.err, ": rank 0 on host, rank 2 on host do not respond")) << ending.err;
  }
}

TEST_F(WatchdogTest, RankZeroIsWaitedForWhileItComputes) {
  const fs::path done = directory_ / "done";
  const auto endings = run(3, [&](int rank, FlightRecorder& recorder, const Axis& world) {
    if (rank == 0) {
      compute_for(kLimit * 5 / 2);
      write_file(done, "");
    }
    wait_in(recorder, "all-reduce", world, [&] { return fs::exists(done); });
    usleep(300'000);  // for the signs of life to be withdrawn
  });
  for (const Ending& ending : endings) EXPECT_EQ(ending.code, 0) << ending.err;
  EXPECT_TRUE(has(endings[1].err, "rank 0 on host is alive and at work")) << endings[1].err;
  EXPECT_TRUE(fs::is_empty(recordings()));
}

/// Its last table says that all are well.
TEST_F(WatchdogTest, RankZeroThatStopsWhileOthersAskIsNamed) {
  const auto endings = run(
      3,
      [](int rank, FlightRecorder& recorder, const Axis& world) {
        if (rank == 0) {
          compute_for(kLimit * 3 / 2);
          raise(SIGSTOP);
        }
        wait_in(recorder, "all-reduce", world, never);
      },
      kLimit, /*left_over=*/1);
  for (const int rank : {1, 2}) {
    const Ending& ending = endings[static_cast<std::size_t>(rank)];
    EXPECT_EQ(ending.code, 4) << ending.err;
    EXPECT_LT(ending.after, 2.5 * kLimitSeconds + 5);
    EXPECT_TRUE(has(ending.err, ": rank 0 on host does not respond")) << ending.err;
  }
}

TEST_F(WatchdogTest, FilesReadGrowWithTheRanksNotWithTheirSquare) {
  constexpr int kRanks = 12;
  fs::create_directories(recordings());
  Opens files(recordings());
  const auto endings = run(
      kRanks,
      [](int rank, FlightRecorder& recorder, const Axis& world) {
        if (rank == kRanks - 1) raise(SIGSTOP);
        wait_in(recorder, "all-reduce", world, never);
      },
      kLimit, /*left_over=*/1);
  files.count();
  ASSERT_FALSE(files.lost);
  for (int rank = 0; rank < kRanks - 1; ++rank) {
    const Ending& ending = endings[static_cast<std::size_t>(rank)];
    EXPECT_TRUE(has(ending.err, fmt::format(": rank {} on host does not respond", kRanks - 1)))
        << ending.err;
  }
  const std::string table = fmt::format("alive-{}", kRun);
  int signs = 0;
  for (const auto& [name, count] : files.opened)
    if (name.starts_with(table + "-") && !has(name, ".tmp-")) signs += count;
  // Each table is made of one sign a rank, and each rank looks at it as it asks and as it judges.
  // The stopped rank, which all look for, has none to be opened.
  const int tables = files.renamed[table];
  EXPECT_GT(tables, 0);
  EXPECT_LE(signs, tables * kRanks);
  EXPECT_LE(tables, 30);
  EXPECT_GT(files.opened[table], 0);
  EXPECT_LE(files.opened[table], 2 * kRanks);
}

TEST_F(WatchdogTest, ARankThatDoesNothingIsNamed) {
  const auto endings = run(
      2,
      [](int rank, FlightRecorder& recorder, const Axis& world) {
        wait_in(recorder, "barrier", world, [] { return true; });
        if (rank == 1) pause();
        wait_in(recorder, "all-reduce", world, never);
      },
      kLimit, /*left_over=*/1);
  EXPECT_EQ(endings[0].code, 4) << endings[0].err;
  EXPECT_LT(endings[0].after, 1.3 * kLimitSeconds + 5);
  EXPECT_TRUE(has(endings[0].err, "rank 1 on host has neither computed nor communicated for "))
      << endings[0].err;
  EXPECT_TRUE(has(endings[0].err, "since barrier #1")) << endings[0].err;
}

TEST_F(WatchdogTest, RanksThatWaitForOneAnotherAreNamed) {
  const auto endings = run(3, [](int rank, FlightRecorder& recorder, const Axis& world) {
    wait_in(recorder, rank == 1 ? "barrier" : "all-reduce", world, never);
  });
  for (const Ending& ending : endings) {
    EXPECT_EQ(ending.code, 4) << ending.err;
    EXPECT_LT(ending.after, kLimitSeconds + 5);
    EXPECT_TRUE(has(ending.err, "all ranks wait for one another: ranks 0, 2 in all-reduce #1"))
        << ending.err;
    EXPECT_TRUE(has(ending.err, "; rank 1 in barrier #1")) << ending.err;
  }
  EXPECT_TRUE(has(compare_recordings(recordings()).dump(), "not in the same operation"));
}

TEST_F(WatchdogTest, AJobThatWasStoppedForLongGoesOn) {
  const fs::path done = directory_ / "done";
  const auto endings = run(3, [&](int rank, FlightRecorder& recorder, const Axis& world) {
    if (rank == 2) {  // plays the scheduler
      usleep(500'000);
      const std::string others = read_file(directory_ / "0") + " " + read_file(directory_ / "1");
      ASSERT_EQ(std::system(("kill -STOP " + others).c_str()), 0);
      std::this_thread::sleep_for(kLimit * 2);
      ASSERT_EQ(std::system(("kill -CONT " + others).c_str()), 0);
      compute_for(kLimit / 2);
      write_file(done, "");
    } else {
      write_file(directory_ / std::to_string(rank), std::to_string(getpid()));
    }
    wait_in(recorder, "all-reduce", world, [&] { return fs::exists(done); });
  });
  for (const Ending& ending : endings) EXPECT_EQ(ending.code, 0) << ending.err;
}

TEST_F(WatchdogTest, RanksThatGoOnWithoutMeAreWaitedFor) {
  const fs::path done = directory_ / "done";
  const auto endings = run(3, [&](int rank, FlightRecorder& recorder, const Axis& world) {
    if (rank != 0) {
      const Axis data = recorder.add_axis("data", {1, 2});
      const auto end = Clock::now() + kLimit * 2;
      while (Clock::now() < end) {
        const auto over = Clock::now() + milliseconds(50);
        wait_in(recorder, "all-gather", data, [&] { return Clock::now() > over; });
      }
      write_file(done, "");
    }
    wait_in(recorder, "all-reduce", world, [&] { return fs::exists(done); });
  });
  for (const Ending& ending : endings) EXPECT_EQ(ending.code, 0) << ending.err;
}

TEST_F(WatchdogTest, ShortWaitsLeaveNoTrace) {
  const auto endings = run(2, [](int, FlightRecorder& recorder, const Axis& world) {
    const auto end = Clock::now() + kLimit;
    while (Clock::now() < end) {
      const auto over = Clock::now() + kLimit / 4;
      wait_in(recorder, "all-reduce", world, [&] { return Clock::now() > over; });
    }
  });
  for (const Ending& ending : endings) EXPECT_EQ(ending.code, 0) << ending.err;
  EXPECT_FALSE(fs::exists(recordings()));
}

TEST_F(WatchdogTest, WhatStoodThereBeforeIsNoSignOfLife) {
  fs::create_directories(recordings());
  write_file(recordings() / fmt::format("asked-{}", kRun), "");
  write_file(recordings() / fmt::format("alive-{}-00001", kRun),
             R"({"beat":1000,"waits":0.0,"idle":0.0,"doing":"x"})");
  expect_end_beside_a_stopped_rank("rank 1 on host does not respond");
}

TEST_F(WatchdogTest, AnotherJobInTheSameDirectoryIsLeftAlone) {
  fs::create_directories(recordings());
  const fs::path asked = recordings() / fmt::format("asked-{}", kRun + 1),
                 alive = recordings() / fmt::format("alive-{}-00001", kRun + 1);
  const std::string sign = R"({"beat":1,"waits":0.0,"idle":0.0,"doing":"x"})";
  write_file(asked, "record");
  write_file(alive, sign);
  // Nobody answers the other job, and its sign serves none of this one's ranks.
  const fs::path done = directory_ / "done";
  const auto endings = run(2, [&](int rank, FlightRecorder& recorder, const Axis& world) {
    if (rank == 1) {
      compute_for(kLimit / 2);
      write_file(done, "");
    }
    wait_in(recorder, "all-reduce", world, [&] { return fs::exists(done); });
  });
  for (const Ending& ending : endings) EXPECT_EQ(ending.code, 0) << ending.err;
  EXPECT_FALSE(fs::exists(recordings() / "rank-00000.json"));
  expect_end_beside_a_stopped_rank("rank 1 on host does not respond");
  EXPECT_EQ(read_file(asked), "record");
  EXPECT_EQ(read_file(alive), sign);
}

TEST_F(WatchdogTest, TheLimitHoldsWhereNothingCanBeWritten) {
  write_file(recordings(), "a file in the way");
  expect_end_beside_a_stopped_rank("the other ranks can't be asked");
}

TEST_F(WatchdogTest, TheLimitHoldsWhereTheFileSystemHangs) {
  fs::create_directories(recordings());
  // Whoever opens it waits for a writer.
  const fs::path asked = recordings() / fmt::format("asked-{}", kRun);
  ASSERT_EQ(mkfifo(asked.c_str(), 0600), 0);
  const auto endings = run(1, [](int, FlightRecorder& recorder, const Axis& world) {
    wait_in(recorder, "all-reduce", world, never);
  });
  EXPECT_EQ(endings[0].code, 4) << endings[0].err;
  EXPECT_LT(endings[0].after, 2 * kLimitSeconds + 5);
  EXPECT_TRUE(has(endings[0].err, "the file system of ")) << endings[0].err;
}

}  // namespace
}  // namespace graphlora
