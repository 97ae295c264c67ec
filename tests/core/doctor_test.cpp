// The doctor's checks of one host: each can find nothing wrong, and each can fail.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "core/doctor/check.hpp"
#include "core/doctor/directory.hpp"
#include "core/doctor/limits.hpp"
#include "core/doctor/memory.hpp"
#include "core/error.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora::doctor {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kMiB = 1 << 20, kGiB = 1 << 30;

const Check& named(const std::vector<Check>& checks, const std::string& name) {
  for (const Check& check : checks)
    if (check.name == name) return check;
  throw std::runtime_error("no check " + name);
}

/// Every warning and failure says what to do, and only they do; one line each.
void expect_well_formed(const std::vector<Check>& checks) {
  for (const Check& check : checks) {
    EXPECT_FALSE(check.group.empty() || check.name.empty() || check.seen.empty()) << check.name;
    EXPECT_EQ(check.remedy.empty(), check.verdict < Verdict::warn) << check.name;
    EXPECT_EQ((check.seen + check.remedy).find('\n'), std::string::npos) << check.name;
  }
}

TEST(DoctorCheck, SurvivesJson) {
  for (const Verdict verdict : {Verdict::skip, Verdict::pass, Verdict::warn, Verdict::fail}) {
    const Check check{"group", "name", verdict, "what was seen", "what to do"};
    const auto back = nlohmann::json::parse(nlohmann::json(check).dump()).get<Check>();
    EXPECT_EQ(back.verdict, verdict);
    EXPECT_EQ(back.group + back.name + back.seen + back.remedy,
              check.group + check.name + check.seen + check.remedy);
  }
  EXPECT_THROW(
      nlohmann::json::parse(R"({"group":"g","name":"n","seen":"s","remedy":"","verdict":"good"})")
          .get<Check>(),
      std::invalid_argument);
}

TEST(DoctorCheck, SizesAreReadable) {
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(1023), "1023 bytes");
  EXPECT_EQ(size_text(64 * kMiB), "64.0 MiB");
  EXPECT_EQ(size_text(kUnlimited), "unlimited");
}

TEST(DoctorLimits, GenerousOnesPass) {
  const auto checks = check_limits({}, {.ranks = 64, .physical_memory = 64 * kGiB, .rdma = true});
  EXPECT_EQ(checks.size(), 5U);
  EXPECT_EQ(worst(checks), Verdict::pass);
  expect_well_formed(checks);
}

TEST(DoctorLimits, EachCanBeTooLow) {
  const LimitNeeds needs{.ranks = 100, .physical_memory = 64 * kGiB, .rdma = true};
  struct Case {
    const char* name;
    ProcessLimits limits;
    Verdict verdict;
  };
  for (const auto& [name, limits, verdict] :
       {Case{"locked memory", {.locked_memory = 8 * kMiB}, Verdict::fail},
        Case{"open files", {.open_files = 600}, Verdict::warn},
        Case{"open files", {.open_files = 200}, Verdict::fail},
        Case{"stack", {.stack = 2 * kMiB}, Verdict::warn},
        Case{"stack", {.stack = kMiB / 2}, Verdict::fail},
        Case{"address space", {.address_space = 100 * kGiB}, Verdict::warn},
        Case{"address space", {.address_space = kGiB}, Verdict::fail},
        Case{"core files", {.core_file = kUnlimited}, Verdict::warn}}) {
    const auto checks = check_limits(limits, needs);
    expect_well_formed(checks);
    EXPECT_EQ(named(checks, name).verdict, verdict) << name;
    for (const Check& check : checks) {
      if (check.name == name) continue;
      EXPECT_EQ(check.verdict, Verdict::pass) << check.name;
    }
  }
}

TEST(DoctorLimits, WhatIsNotNeededIsNotAskedFor) {
  const ProcessLimits limits{.locked_memory = 8 * kMiB, .core_file = kUnlimited};
  EXPECT_EQ(worst(check_limits(limits, {.ranks = 1, .core_pattern = "|/usr/lib/coredump"})),
            Verdict::pass);
}

TEST(DoctorLimits, AreThoseOfThisProcess) {
  // In a process of its own: limits can't be raised again.
  const pid_t child = fork();
  if (child == 0) {
    const rlimit files{77, 77};
    const bool set = setrlimit(RLIMIT_NOFILE, &files) == 0;
    _exit(set && process_limits().open_files == 77 &&
                  named(check_limits(process_limits(), limit_needs(1)), "open files").verdict ==
                      Verdict::fail
              ? 0
              : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(DoctorMemory, EachCheckCanFindFault) {
  const HostMemory good{
      .available = 32 * kGiB, .total = 64 * kGiB, .transparent = "always [madvise] never"};
  EXPECT_EQ(worst(check_memory(good, 4, 8 * kGiB)), Verdict::pass);
  const auto many = check_memory(good, 5, 8 * kGiB);
  EXPECT_EQ(named(many, "free").verdict, Verdict::warn);
  EXPECT_EQ(named(many, "huge pages").verdict, Verdict::pass);
  expect_well_formed(many);

  HostMemory never = good;
  never.transparent = "always madvise [never]";
  EXPECT_EQ(named(check_memory(never, 1, 1), "huge pages").verdict, Verdict::warn);
  HostMemory aside = good;
  aside.huge_pages = 20 * kGiB;
  EXPECT_EQ(named(check_memory(aside, 1, 1), "huge pages").verdict, Verdict::warn);
  HostMemory unknown = good;
  unknown.transparent = "";
  EXPECT_EQ(worst(check_memory(unknown, 1, 1)), Verdict::pass);
}

TEST(DoctorMemory, ThisHostHasSome) {
  const HostMemory memory = host_memory();
  EXPECT_GT(memory.available, kMiB);
  EXPECT_GE(memory.total, memory.available);
}

TEST(DoctorMemory, SharedMemoryMustBeThereAndLargeEnough) {
  const Check missing = check_shared_memory("/nonexistent/shm", 1);
  EXPECT_EQ(missing.verdict, Verdict::fail);
  // So many ranks that no memory is enough for them.
  const TemporaryDirectory directory;
  const Check small = check_shared_memory(directory.path(), 1 << 30);
  EXPECT_EQ(small.verdict, Verdict::fail);
  expect_well_formed({missing, small});
  // /proc has no free space at all, and is there.
  EXPECT_EQ(check_shared_memory("/proc", 1).verdict, Verdict::fail);
}

TEST(DoctorDirectory, AnOrdinaryOnePassesAndIsLeftAsItWas) {
  const TemporaryDirectory directory;
  directory.write("mine", "x");
  const auto checks = check_directory(directory.path(), 1);
  expect_well_formed(checks);
  for (const char* name : {"directory", "sync", "rename", "lock", "space"})
    EXPECT_EQ(named(checks, name).verdict, Verdict::pass) << named(checks, name).seen;
  EXPECT_LE(named(checks, "exchange").verdict, Verdict::warn);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

TEST(DoctorDirectory, WhatCantTakeFilesFails) {
  const TemporaryDirectory directory;
  for (const fs::path& path :
       {directory / "missing", directory.write("file", ""), fs::path("/proc"), fs::path(""),
        directory / std::string(300, 'x')}) {
    const auto checks = check_directory(path, 0);
    ASSERT_EQ(checks.size(), 1U) << path;
    EXPECT_EQ(checks[0].verdict, Verdict::fail) << path;
    expect_well_formed(checks);
  }
}

TEST(DoctorDirectory, TooLittleSpaceIsAWarning) {
  const TemporaryDirectory directory;
  const auto checks = check_directory(directory.path(), std::uint64_t{1} << 62);
  EXPECT_EQ(named(checks, "space").verdict, Verdict::warn);
  expect_well_formed(checks);
}

TEST(DoctorDirectory, AFullDiskFailsToSyncAndRename) {
  // The largest file of this process is cut down, as a quota would: writes come up short.
  const TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit size{100, 100};
    if (setrlimit(RLIMIT_FSIZE, &size) != 0) _exit(2);
    const auto checks = check_directory(directory.path(), 0);
    _exit(named(checks, "sync").verdict == Verdict::fail &&
                  named(checks, "rename").verdict == Verdict::fail
              ? 0
              : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(ScratchDirectory, GoesWithWhatItHolds) {
  const TemporaryDirectory directory;
  fs::path path;
  {
    const ScratchDirectory scratch(directory.path());
    path = scratch.path();
    std::ofstream(path / "file") << "x";
    EXPECT_TRUE(fs::exists(path / "file"));
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_THROW(ScratchDirectory("/nonexistent"), DataError);
}

}  // namespace
}  // namespace graphlora::doctor
