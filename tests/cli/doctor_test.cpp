// graphlora doctor as a user meets it: alone and under mpirun, well and unwell.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "dist/device.hpp"
#include "support/process.hpp"
#include "support/slowdown.hpp"

namespace graphlora {
namespace {

using test::error_lines;
using test::ProcessResult;
using test::run_process;
using Words = std::vector<std::string>;

Words doctor(const Words& more, const Words& before = {}) {
  Words words = before;
  words.insert(words.end(), {GRAPHLORA_BINARY, "doctor"});
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Words ranks(int count) {
  return {MPIEXEC, "--oversubscribe", "--bind-to", "none", "-np", std::to_string(count)};
}

/// The verdict of one check; "" where it is not there.
std::string verdict(const nlohmann::json& report, const std::string& group,
                    const std::string& name) {
  for (const auto& check : report.at("checks"))
    if (check.at("group") == group && check.at("name") == name) return check.at("verdict");
  return "";
}

nlohmann::json report_of(const ProcessResult& result) {
  auto report = nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  if (report.is_discarded()) throw std::runtime_error("no JSON: " + result.out + result.err);
  EXPECT_EQ(report.at("exit_code"), result.code) << result.err;
  for (const auto& check : report.at("checks")) {
    const bool bad = check.at("verdict") == "warn" || check.at("verdict") == "fail";
    EXPECT_EQ(check.at("remedy").get<std::string>().empty(), !bad) << check;
  }
  return report;
}

TEST(Doctor, AloneOnAGoodDirectoryNothingFails) {
  const TemporaryDirectory directory;
  const ProcessResult result = run_process(doctor({"--output", directory.path(), "--json"}));
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  const auto report = report_of(result);
  EXPECT_EQ(verdict(report, "MPI", "launcher"), "pass");
  EXPECT_EQ(verdict(report, "files", "sync"), "pass");
  EXPECT_EQ(verdict(report, "files", "rename"), "pass");
  EXPECT_EQ(verdict(report, "files", "shared"), "skip");
  EXPECT_EQ(verdict(report, "network", "results"), "skip");
  EXPECT_EQ(verdict(report, "clock", "skew"), "skip");
  ASSERT_EQ(report.at("ranks").size(), 1U);
  EXPECT_FALSE(report.at("ranks")[0].at("cores").empty());
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(Doctor, FourRanksAreSeenWithinTenSeconds) {
  const TemporaryDirectory directory;
  const auto start = std::chrono::steady_clock::now();
  const ProcessResult result =
      run_process(doctor({"--output", directory.path(), "--network.outlier", "1000",
                          "--network.latency", "1000", "--network.bandwidth", "0", "--json"},
                         ranks(4)));
  const auto seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 10 * test::kSlowdown);
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  const auto report = report_of(result);
  EXPECT_EQ(report.at("ranks").size(), 4U);
  for (const char* name : {"results", "all-reduce", "latency", "bandwidth", "outliers"})
    EXPECT_EQ(verdict(report, "network", name), "pass") << name;
  for (const char* name : {"program", "MPI", "LibTorch", "libraries"})
    EXPECT_EQ(verdict(report, "versions", name), "pass") << name;
  EXPECT_EQ(verdict(report, "files", "shared"), "pass");
  EXPECT_EQ(verdict(report, "files", "shared lock"), "pass");
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(Doctor, TheTableSaysWhatToMend) {
  const ProcessResult result =
      run_process(doctor({"--output", "/nonexistent/directory", "--memory.free", "1000000"}));
  EXPECT_EQ(result.code, 2) << result.out << result.err;
  for (const char* line :
       {"\npass  MPI library", "\nfail  files directory", "mkdir -p '/nonexistent/directory'",
        "\nwarn  memory free", "to mend: ", " fail, "}) {
    EXPECT_NE(result.out.find(line), std::string::npos) << line << "\n" << result.out;
  }
}

TEST(Doctor, ADirectoryThatTakesNoFilesFailsOnEveryRank) {
  const ProcessResult result = run_process(doctor({"--output", "/proc", "--json"}, ranks(2)));
  EXPECT_EQ(result.code, 2) << result.err;
  const auto report = report_of(result);
  EXPECT_EQ(verdict(report, "files", "directory"), "fail");
  EXPECT_EQ(verdict(report, "files", "shared"), "skip");
}

TEST(Doctor, LowLimitsAreFound) {
  const Words shell{"sh", "-c",
                    "ulimit -n 100; ulimit -s 512; ulimit -c 0; exec \"$0\" doctor --json",
                    GRAPHLORA_BINARY};
  const ProcessResult result = run_process(shell);
  EXPECT_EQ(result.code, 2) << result.err;
  const auto report = report_of(result);
  EXPECT_EQ(verdict(report, "limits", "open files"), "fail");
  EXPECT_EQ(verdict(report, "limits", "stack"), "fail");
  EXPECT_EQ(verdict(report, "limits", "core files"), "pass");
}

TEST(Doctor, MoreThreadsThanCoresAreFound) {
  Words words = {"env", "OMP_NUM_THREADS=1000"};
  const auto report = report_of(run_process(doctor({"--threads", "1000", "--json"}, words)));
  EXPECT_EQ(verdict(report, "CPU", "threads"), "warn");
  // Two ranks on one core, as a wrong binding has it.
  words = ranks(2);
  words.insert(words.end(), {"taskset", "-c", "0"});
  const auto bound = report_of(run_process(doctor({"--json"}, words)));
  EXPECT_EQ(verdict(bound, "CPU", "threads"), "warn");
}

TEST(Doctor, ALauncherThatMpiDoesNotKnowOfIsAFailureOfCommunication) {
  const ProcessResult result =
      run_process(doctor({"--json"}, {"env", "SLURM_STEP_ID=0", "SLURM_STEP_NUM_TASKS=4"}));
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_EQ(verdict(report_of(result), "MPI", "launcher"), "fail");
}

TEST(Doctor, ThresholdsAreOptions) {
  const TemporaryDirectory directory;
  const auto report = report_of(run_process(
      doctor({"--network.latency", "0", "--network.bandwidth", "1000000000", "--network.payload",
              "0.01", "--files.free", "1000000000", "--output", directory.path(), "--json"},
             ranks(2))));
  EXPECT_EQ(verdict(report, "network", "latency"), "warn");
  EXPECT_EQ(verdict(report, "network", "bandwidth"), "warn");
  EXPECT_EQ(verdict(report, "files", "space"), "warn");
  EXPECT_EQ(report.at("verdict"), "warn");
  EXPECT_EQ(report.at("exit_code"), 0);
}

TEST(Doctor, AGpuThatIsWantedAndNotThereFails) {
  if (why_no_cuda().empty()) GTEST_SKIP() << "needs a machine without a GPU";
  const ProcessResult cuda = run_process(doctor({"--device", "cuda", "--json"}, ranks(2)));
  EXPECT_EQ(cuda.code, 2) << cuda.err;
  EXPECT_EQ(verdict(report_of(cuda), "GPU", "devices"), "fail");
  const ProcessResult nccl = run_process(doctor({"--comm", "nccl", "--json"}, ranks(2)));
  EXPECT_EQ(nccl.code, 4) << nccl.err;
  EXPECT_EQ(verdict(report_of(nccl), "NCCL", "use"), "fail");
}

}  // namespace
}  // namespace graphlora
