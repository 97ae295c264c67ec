#include "train/metrics_log.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "support/rank_main.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora::test {
namespace {

TrainingState state_of(std::int64_t step, std::int64_t evaluated) {
  TrainingState state;
  state.step = step;
  state.evaluated_step = evaluated;
  return state;
}

TEST(MetricsLog, DropsWhatTheRunWritesAgain) {
  if (world().rank() != 0) return;
  const TemporaryDirectory directory;
  const std::string first = "{\"step\":1}\n{\"step\":1,\"split\":\"valid\"}\n{\"step\":2}\n";
  directory.write("m", first + "{\"step\":2,\"split\":\"valid\"}\n{\"step\":3}\nnull\n{\"step\":1");
  { MetricsLog(directory / "m", state_of(2, 1)).write({{"step", 3}}); }
  EXPECT_EQ(read_file(directory / "m"), first + "{\"step\":3}\n");
  { const MetricsLog fresh(directory / "m", {}); }
  EXPECT_EQ(read_file(directory / "m"), "");
  EXPECT_THROW(MetricsLog(directory / "none/m", {}), DataError);
}

TEST(MetricsLog, AForeignFileIsKept) {
  if (world().rank() != 0) return;
  const TemporaryDirectory directory;
  for (const std::string text : {"{\"loss\":1}\n", "{\"step\":1}\nepoch 2\n{\"step\":3}\n"}) {
    directory.write("m", text);
    EXPECT_THROW(MetricsLog(directory / "m", {}), DataError);
    EXPECT_EQ(read_file(directory / "m"), text);
  }
}

TEST(MetricsLog, KeepsLinesUntilTheyCanBeWritten) {
  if (world().rank() != 0) return;
  const TemporaryDirectory directory;
  MetricsLog log(directory / "m", {});
  log.write({{"step", 1}});
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit limited{15, before.rlim_max};  // in the middle of a line
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  log.write({{"step", 2}});
  log.write({{"step", 3}});
  std::string message;
  try {
    log.require_complete();
  } catch (const DataError& error) {
    message = error.what();
  }
  EXPECT_THROW(log.sync(), DataError);  // so no step is published without its lines
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("the last lines are missing"), std::string::npos) << message;
  EXPECT_EQ(read_file(directory / "m"), "{\"step\":1}\n");
  log.write({{"step", 4}});
  EXPECT_NO_THROW(log.require_complete());
  EXPECT_EQ(read_file(directory / "m"), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
}

/// As a save does beside training, while lines come and can't always be written.
TEST(MetricsLog, AnyThreadMaySync) {
  if (world().rank() != 0) return;
  const TemporaryDirectory directory;
  MetricsLog log(directory / "m", {});
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  std::atomic<bool> stop = false;
  std::atomic<int> synced = 0, refused = 0;
  std::thread saver([&] {
    while (!stop || synced == 0) {
      try {
        log.sync();
        ++synced;
      } catch (const DataError&) {
        ++refused;
      }
    }
  });
  constexpr int kLines = 30;
  std::string expected;
  for (int step = 1; step <= kLines; ++step) {
    const rlimit limited{expected.size() + 5, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, step % 3 == 0 ? &limited : &before);
    log.write({{"step", step}});
    expected += fmt::format("{{\"step\":{}}}\n", step);
    if (step % 3 == 0) {
      const int now = refused;
      while (refused == now) std::this_thread::yield();
    }
  }
  setrlimit(RLIMIT_FSIZE, &before);
  stop = true;
  saver.join();
  signal(SIGXFSZ, old_handler);
  EXPECT_NO_THROW(log.sync());
  EXPECT_EQ(read_file(directory / "m"), expected);
}

}  // namespace
}  // namespace graphlora::test
