// Phases and their spans, of all ranks in one file.
#include "train/trace.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "support/tiny_world.hpp"

namespace graphlora {
namespace {

TEST(Trace, HoldsEverySpanOfEveryRank) {
  Communicator& world = test::world();
  Phases phases({"first", "second"});
  const auto at = [start = Phases::Clock::now()](int milliseconds) {
    return start + std::chrono::milliseconds(milliseconds);
  };
  phases.add("second", at(0), at(4));  // before recording: counted, not kept
  phases.record();
  for (std::int64_t step = 1; step <= 3; ++step) {
    phases.set_step(step);
    phases.add("first", at(10), at(10 + world.rank() + 1));
    phases.add("\"new\"", at(20), at(25));
  }
  ASSERT_EQ(phases.seconds().size(), 3u);
  EXPECT_NEAR(phases.seconds()[0].second, 3e-3 * (world.rank() + 1), 1e-9);
  EXPECT_NEAR(phases.seconds()[1].second, 4e-3, 1e-9);
  EXPECT_NEAR(phases.seconds()[2].second, 15e-3, 1e-9);
  const std::string trace = phases.trace(world);
  EXPECT_EQ(trace.empty(), world.rank() != 0);
  if (world.rank() != 0) return;
  const auto json = parse_json(trace);
  std::vector<int> spans(static_cast<std::size_t>(world.size())), names = spans;
  for (const auto& event : json["traceEvents"]) {
    const auto rank = event["pid"].get<std::size_t>();
    ASSERT_LT(rank, spans.size());
    if (event["ph"] == "M") {
      ++names[rank];
      continue;
    }
    ++spans[rank];
    if (event["name"] == "first") {
      EXPECT_NEAR(event["dur"].get<double>(), 1e3 * static_cast<double>(rank + 1), 1e-3);
    }
    EXPECT_GE(event["args"]["step"], 1);
  }
  EXPECT_EQ(spans, std::vector<int>(spans.size(), 6));
  EXPECT_EQ(names, std::vector<int>(spans.size(), 1));
}

}  // namespace
}  // namespace graphlora
