// graphlora plan through the real program.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/process.hpp"

namespace graphlora {
namespace {

using test::error_lines;
using test::ProcessResult;
using test::run_process;
using Words = std::vector<std::string>;

ProcessResult plan(const Words& more) {
  Words words{GRAPHLORA_BINARY, "plan",
              "--cluster",      "configs/clusters/h100-infiniband.ini",
              "--statistics",   "configs/clusters/hundred-million-users.json",
              "--model",        "configs/clusters/llama-7b.json"};
  words.insert(words.end(), more.begin(), more.end());
  return run_process(words);
}

TEST(Plan, HundredMillionUsersOnFiveHundredGpus) {
  const ProcessResult result = plan({"--batch-size", "4096", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json["plans"].size(), 5u);
  const auto& best = json["plans"][0];
  EXPECT_EQ(best["ranks"], 512);
  EXPECT_TRUE(best["fits"].get<bool>());
  EXPECT_GT(best["memory"]["LLM weights"].get<double>(), 1e9);
  // E and two moments of 105 M nodes, 256 wide, over 512 ranks.
  EXPECT_NEAR(best["memory"]["E and moments"].get<double>(), 105e6 * 256 * 12 / 512, 1e6);
  double sum = 0;
  for (const auto& part : best["time"]) sum += part["seconds"].get<double>();
  EXPECT_NEAR(best["step_seconds"].get<double>(), sum, 1e-9);
  const ProcessResult text = plan({"--batch-size", "4096", "--best", "1"});
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* part : {"512 ranks = ", "bound by ", "LLM ", "halo ", "GiB: "})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << " in " << text.out;
}

TEST(Plan, BadInputIsOneLine) {
  const auto refused = [](const Words& more, int code, const std::string& part) {
    const ProcessResult result = plan(more);
    EXPECT_EQ(result.code, code) << result.err;
    const auto errors = error_lines(result.err);
    ASSERT_EQ(errors.size(), 1u) << result.err;
    EXPECT_NE(errors[0].find(part), std::string::npos) << errors[0];
  };
  refused({"--data", "x"}, 2, "either --data or --statistics");
  refused({"--ranks", "1024"}, 2, "has 512 devices");
  refused({"--ranks", "0"}, 2, "--ranks 0");
  refused({"--batch-size", "2"}, 2, "no layout goes");
  refused({"--gnn.type", "gat"}, 2, "--gnn.type gat");
  refused({"--calibrate", "/nonexistent"}, 3, "/nonexistent");
  refused({"--tensor-parallel", "3"}, 2, "no layout goes");
}

}  // namespace
}  // namespace graphlora
