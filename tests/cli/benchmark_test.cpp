// A scaling study through the real program, and what it refuses.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <thread>

#include "cli/run_graphlora.hpp"
#include "cli/tiny_ratings.hpp"
#include "core/file.hpp"
#include "support/process.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;
using test::error_lines;
using test::ProcessResult;
using test::run_graphlora;
using test::run_process;

using Words = std::vector<std::string>;

class BenchmarkTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    write_file(root() / "ratings.csv", test::tiny_ratings(12, 8, 11));
    write_file(root() / "train.ini",
               "batch-size = 4\nsave-every = 2\n[lora]\nrank = 2\n[prompt]\nhistory = 3\n");
    ran({"prepare", "--input", at("ratings.csv"), "--format", "csv", "--output", at("dataset"),
         "--split", "user-time"});
    ran({"pretrain", "--data", at("dataset"), "--output", at("pretrained"), "--pretrain.width", "6",
         "--pretrain.epochs", "2"});
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static fs::path root() { return directory_->path(); }
  static std::string at(const std::string& name) { return (root() / name).string(); }
  static void ran(const Words& words) {
    const ProcessResult result = run_graphlora(words);
    ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
  }
  static Words benchmark(const std::string& output, const Words& more) {
    Words words{"benchmark",
                "--config",
                at("train.ini"),
                "--data",
                at("dataset"),
                "--model",
                "tests/golden/tiny_llama",
                "--pretrained",
                at("pretrained"),
                "--output",
                at(output),
                "--what",
                "macro",
                "--repetitions",
                "6",
                "--warm-up",
                "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static void refused(const Words& words, int code, const std::string& part) {
    const ProcessResult result = run_graphlora(words);
    EXPECT_EQ(result.code, code) << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1u) << result.err;
    EXPECT_NE(errors[0].find(part), std::string::npos) << errors[0];
  }

  static std::unique_ptr<TemporaryDirectory> directory_;
};
std::unique_ptr<TemporaryDirectory> BenchmarkTest::directory_;

TEST_F(BenchmarkTest, StudyStartsItsRanksAndReportsThem) {
  const ProcessResult result =
      run_graphlora(benchmark("study", {"--ranks", "1,2", "--scaling", "strong,weak,fixed",
                                        "--oversubscribe", "--threads", "1"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const auto summary = read_json(root() / "study/summary.json");
  ASSERT_EQ(summary["runs"].size(), 5u);
  std::map<std::string, int> series;
  for (const auto& point : summary["scaling"]) ++series[point["series"]];
  EXPECT_EQ(series, (std::map<std::string, int>{{"fixed", 2}, {"strong", 2}, {"weak", 2}}));
  for (const auto& run : summary["runs"]) {
    const bool weak = run["series"][0] == "weak";
    EXPECT_EQ(run["batch_size"], weak ? 8 : 4);
    EXPECT_EQ(run["threads"], 1);
    EXPECT_EQ(run["setting"]["options"]["prompt.history"], "3") << "of the INI file";
    EXPECT_EQ(run["environment"]["ranks"].size(), run["ranks"].get<std::size_t>());
    EXPECT_TRUE(run["environment"]["versions"][0].get<std::string>().starts_with("graphlora "));
    for (const auto& m : run["measurements"]) {
      ASSERT_EQ(m["seconds"].size(), run["ranks"].get<std::size_t>());
      EXPECT_EQ(m["seconds"][0].size(), 6u);
    }
  }
  EXPECT_TRUE(result.out.ends_with("study/report.html\n")) << result.out;

  // The same again from the runs' own results.
  ran({"benchmark", "--merge", fmt::format("{0}/strong-1,{0}/strong-2", at("study/runs")),
       "--output", at("merged")});
  const auto merged = read_json(root() / "merged/summary.json");
  EXPECT_EQ(merged["runs"].size(), 2u);
  ASSERT_EQ(merged["scaling"].size(), 2u);
  EXPECT_EQ(merged["scaling"][1]["step_seconds"], summary["scaling"][1]["step_seconds"]);
}

/// A headless browser on PATH; empty: there is none.
std::string browser() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
    if (run_process({"sh", "-c", fmt::format("command -v {}", name)}).code == 0) return name;
  return {};
}

/// Counts what a browser has laid out inside of its plot, and writes the numbers into the page.
constexpr const char* kCountDrawn = R"(<script>
window.onload = () => {
  const drawn = what => [...document.querySelectorAll(what)].filter(element => {
    const box = element.getBoundingClientRect();
    const plot = element.closest("svg").getBoundingClientRect();
    return box.width > 0 && box.left >= plot.left && box.right <= plot.right &&
           box.top >= plot.top && box.bottom <= plot.bottom;
  }).length;
  document.body.setAttribute("data-drawn",
      ["circle.point", "rect.bar", "polyline", "svg text"].map(drawn).join(" "));
};
</script></body>)";

TEST_F(BenchmarkTest, ABrowserDrawsEveryPoint) {
  const std::string program = browser();
  if (program.empty()) GTEST_SKIP() << "no headless browser (chromium) on PATH";
  ran(benchmark("drawn", {"--threads", "1", "--series", "strong"}));
  std::string page = read_file(root() / "drawn/report.html");
  const auto count = [&](const std::string& part) {
    int found = 0;
    for (std::size_t at = page.find(part); at != std::string::npos; at = page.find(part, at + 1))
      ++found;
    return found;
  };
  // A time, an efficiency, a rank's spread; and the phases of one run.
  const int points = count("class=\"point\""), bars = count("class=\"bar\"");
  EXPECT_EQ(points, 3);
  EXPECT_GE(bars, 7);
  const int texts = count("<text ");
  page.replace(page.rfind("</body>"), 7, kCountDrawn);
  write_file(root() / "drawn.html", page);
  const ProcessResult result =
      run_process({program, "--headless", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--user-data-dir=" + at("browser"),
                   "--virtual-time-budget=2000", "--dump-dom", "file://" + at("drawn.html")});
  ASSERT_EQ(result.code, 0) << result.err;
  const std::string attribute = "data-drawn=\"";
  const std::size_t place = result.out.find(attribute);
  ASSERT_NE(place, std::string::npos) << result.out.substr(0, 500);
  std::istringstream drawn(result.out.substr(place + attribute.size()));
  int drawn_points = 0, drawn_bars = 0, drawn_lines = 0, drawn_texts = 0;
  drawn >> drawn_points >> drawn_bars >> drawn_lines >> drawn_texts;
  EXPECT_EQ(drawn_points, points);
  EXPECT_EQ(drawn_bars, bars);
  EXPECT_EQ(drawn_texts, texts) << "no text runs out of its plot";
}

TEST_F(BenchmarkTest, RanksThatShareCoresAreLabelled) {
  const unsigned threads = 2 * std::max(1U, std::thread::hardware_concurrency());
  ran(benchmark("shared", {"--threads", std::to_string(threads)}));
  const auto summary = read_json(root() / "shared/summary.json");
  EXPECT_EQ(summary["runs"][0]["label"], "functional, not scaling");
  EXPECT_NE(read_file(root() / "shared/report.html")
                .find(fmt::format("{} threads of 1 ranks on", threads)),
            std::string::npos);
}

TEST_F(BenchmarkTest, BadInputIsOneLine) {
  refused(benchmark("x", {"--ranks", "1,4096"}), 2, "--ranks 4096: this machine has");
  refused(benchmark("x", {"--ranks", "2,1"}), 2, "ascending");
  refused(benchmark("x", {"--ranks", "0"}), 2, "ascending");
  refused(benchmark("x", {"--ranks", "1,2", "--scaling", "round"}), 2, "--scaling round");
  refused(benchmark("x", {"--series", "round"}), 2, "--series round");
  refused(benchmark("x", {"--ranks", "1", "--tensor-parallel", "2"}), 2, "does not divide");
  refused(benchmark("x", {"--ranks", "1", "--launcher", "/nonexistent/run"}), 2,
          "/nonexistent/run");
  refused(benchmark("dataset", {}), 2, "dataset");
  refused({"benchmark", "--output", at("x")}, 2, "--data is required");
  refused({"benchmark", "--output", at("x"), "--merge", at("dataset")}, 3, "summary.json");
  refused({"benchmark", "--output", at("x"), "--merge", "a", "--ranks", "1"}, 2,
          "leave --ranks out");
  Words missing = benchmark("x", {"--ranks", "1"});
  *std::find(missing.begin(), missing.end(), at("pretrained")) = "/nonexistent";
  const ProcessResult failed = run_graphlora(missing);
  EXPECT_EQ(failed.code, 3) << failed.err;
  EXPECT_NE(failed.err.find("/nonexistent"), std::string::npos) << "of the run itself";
  EXPECT_NE(failed.err.find("the run on 1 ranks failed (exit code 3)"), std::string::npos);
  Words zero = benchmark("x", {});
  *std::find(zero.begin(), zero.end(), "6") = "0";
  refused(zero, 2, "--repetitions: must be between 1");
  EXPECT_FALSE(fs::exists(root() / "x/summary.json"));
}

}  // namespace
}  // namespace graphlora
