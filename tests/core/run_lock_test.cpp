// One run at a time: who is refused, and which locks are left over.
#include "core/run_lock.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "core/error.hpp"
#include "core/file.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;

constexpr RunLock::Times kQuick{0.05, 0.6};

std::string refusal(const fs::path& directory, RunLock::Times times = kQuick) {
  try {
    const RunLock lock(directory, times);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

/// A lock as another process has left it.
void leave(const fs::path& directory, const std::function<void(nlohmann::json&)>& change) {
  nlohmann::json process = describe_process();
  process["token"] = "0123456789abcdef";
  change(process);
  make_directories(directory);
  write_file(directory / "lock", fmt::format("{:020} {}\n", 0, process.dump()));
}

TEST(RunLock, IsThereWhileTheRunIsAndLeavesNothing) {
  const TemporaryDirectory directory;
  {
    const RunLock lock(directory / "a/b", kQuick);
    EXPECT_TRUE(fs::exists(directory / "a/b/lock"));
    EXPECT_NO_THROW(lock.check());
  }
  EXPECT_FALSE(fs::exists(directory / "a"));
  {
    const RunLock lock(directory / "a/b", kQuick);
    write_file(directory / "a/b/step", "");
  }
  EXPECT_TRUE(fs::exists(directory / "a/b/step"));
  EXPECT_FALSE(fs::exists(directory / "a/b/lock"));
}

TEST(RunLock, ASecondRunIsRefusedByName) {
  const TemporaryDirectory directory;
  const RunLock lock(directory.path());
  const std::string message = refusal(directory.path());
  EXPECT_NE(message.find(fmt::format("process {} on ", getpid())), std::string::npos) << message;
  EXPECT_NO_THROW(lock.check());
}

TEST(RunLock, OfAKilledProcessIsReplaced) {
  const TemporaryDirectory directory;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const RunLock lock(directory.path());
    if (write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_NE(refusal(directory.path()).find(std::to_string(child)), std::string::npos);
  kill(child, SIGKILL);
  // Also before anyone has asked for its exit code, as under a launcher.
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(refusal(directory.path(), {5, 1000}), "");
  waitpid(child, nullptr, 0);
}

TEST(RunLock, OfAReusedProcessNumberIsReplaced) {
  const TemporaryDirectory directory;
  leave(directory.path(), [](nlohmann::json& process) {
    process["started"] = process["started"].get<std::int64_t>() - 1;
  });
  EXPECT_EQ(refusal(directory.path(), {5, 1000}), "");
}

TEST(RunLock, OfAnotherMachineIsWatched) {
  const TemporaryDirectory directory;
  const auto elsewhere = [](nlohmann::json& process) {
    process["boot"] = "another";
    process["host"] = "node7";
  };
  leave(directory.path(), elsewhere);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(refusal(directory.path()), "");
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(600));

  leave(directory.path(), elsewhere);
  std::atomic<bool> stop = false;
  std::thread other([&] {
    for (int beat = 1; !stop; ++beat) {
      nlohmann::json process = describe_process();
      elsewhere(process);
      write_file(directory / "lock", fmt::format("{:020} {}\n", beat, process.dump()));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  const std::string message = refusal(directory.path(), {5, 1000});
  stop = true;
  other.join();
  EXPECT_NE(message.find("on node7"), std::string::npos) << message;
}

TEST(RunLock, OfARequeuedJobIsReplacedAtOnce) {
  const TemporaryDirectory directory;
  const auto of_job = [](const char* job, int restart) {
    return [=](nlohmann::json& process) {
      process["boot"] = "another";
      process["slurm_job"] = job;
      process["slurm_restart"] = restart;
    };
  };
  setenv("SLURM_JOB_ID", "17", 1);
  setenv("SLURM_RESTART_COUNT", "2", 1);
  leave(directory.path(), of_job("17", 1));
  EXPECT_EQ(refusal(directory.path(), {5, 1000}), "");
  for (const auto& [job, restart] : {std::pair("17", 2), std::pair("18", 1)}) {
    leave(directory.path(), of_job(job, restart));
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(refusal(directory.path()), "");
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(600));
  }
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
}

TEST(RunLock, DamagedOnesAreWatchedToo) {
  const TemporaryDirectory directory;
  for (const char* text : {"", "x", "00000 {\"boot\":5,\"process\":[]}", "{"}) {
    write_file(directory / "lock", text);
    EXPECT_EQ(refusal(directory.path()), "") << text;
  }
  make_directories(directory / "lock");
  EXPECT_THROW(RunLock(directory.path(), kQuick), DataError);
}

TEST(RunLock, BeatsAndNoticesThatItWasTaken) {
  const TemporaryDirectory directory;
  const RunLock lock(directory.path(), kQuick);
  const std::string before = read_file(directory / "lock");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const std::string after = read_file(directory / "lock");
  EXPECT_NE(before, after);
  EXPECT_EQ(before.substr(20), after.substr(20));
  leave(directory.path(), [](nlohmann::json&) {});
  const std::string others = read_file(directory / "lock");
  EXPECT_THROW(lock.check(), DataError);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(read_file(directory / "lock"), others);
}

/// As the threads of a save ask while it beats.
TEST(RunLock, AnyThreadMayCheckIt) {
  const TemporaryDirectory directory;
  const RunLock lock(directory.path(), {0.001, 0.6});
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 300; ++k) {
        try {
          lock.check();
        } catch (const DataError&) {
          ++refused;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 0);
}

TEST(RunLock, UnwritablePlaces) {
  const TemporaryDirectory directory;
  directory.write("file", "");
  EXPECT_THROW(RunLock(directory / "file/x", kQuick), DataError);
  EXPECT_THROW(RunLock(directory / std::string(300, 'x'), kQuick), DataError);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace graphlora
