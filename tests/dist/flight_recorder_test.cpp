// The recorder under one and several threads, and what is read out of its recordings.
#include "dist/flight_recorder.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <time.h>

#include <numeric>
#include <optional>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "dist/flight_report.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

constexpr const char* kReduce = "all-reduce";
constexpr const char* kGather = "all-gather of rows";
constexpr const char* kMetrics = "metrics";

TEST(FlightRecorder, KeepsTheLastThousandInOrder) {
  FlightRecorder recorder;
  const auto world = recorder.add_axis("world", {0, 1});
  const auto data = recorder.add_axis("data", {1});
  for (int i = 0; i < 2500; ++i) {
    recorder.set_step(i / 10);
    const auto id = recorder.issue(kReduce, kMetrics, i % 5 == 0 ? *data : *world, i);
    EXPECT_EQ(id, static_cast<std::uint64_t>(i) + 1);
    if (i != 2499) recorder.complete(id);
  }
  EXPECT_EQ(recorder.last(), 2500U);
  EXPECT_FALSE(recorder.operation(1).has_value());
  const auto json = recorder.to_json("asked", "why");
  const auto& operations = json.at("operations");
  ASSERT_EQ(operations.size(), 1000U);
  for (int i = 0; i < 1000; ++i) {
    const auto& one = operations[static_cast<std::size_t>(i)];
    const int number = 1501 + i;
    EXPECT_EQ(one.at("sequence"), number);
    EXPECT_EQ(one.at("bytes"), number - 1);
    EXPECT_EQ(one.at("step"), (number - 1) / 10);
    EXPECT_EQ(one.at("axis"), (number - 1) % 5 == 0 ? 1 : 0);
    EXPECT_EQ(one.at("completed").is_null(), number == 2500);
    EXPECT_EQ(one.at("peers"),
              (number - 1) % 5 == 0 ? nlohmann::json({1}) : nlohmann::json({0, 1}));
  }
  EXPECT_EQ(operations.back().at("axis_sequence"), 2000);
  EXPECT_EQ(json.at("axes").at(1).at("operations"), 500);
  EXPECT_EQ(json.at("message"), "why");
}

TEST(FlightRecorder, KnowsWhatIsWaitedFor) {
  FlightRecorder recorder;
  const auto axis = recorder.add_axis("part", {2, 3, 5});
  recorder.name_axis(*axis, "tensor");
  EXPECT_EQ(recorder.waiting().sequence, 0U);
  const auto id = recorder.issue(kReduce, kMetrics, *axis, 40, /*peers=*/0b101);
  EXPECT_EQ(recorder.waiting().sequence, 0U);
  {
    const FlightRecorder::Waiting waiting(recorder, id);
    EXPECT_EQ(recorder.waiting().sequence, id);
    EXPECT_LE(recorder.waiting().since, steady_now());
    EXPECT_EQ(recorder.to_json("", "").at("waiting").at("sequence"), id);
  }
  EXPECT_EQ(recorder.waiting().sequence, 0U);
  EXPECT_EQ(recorder.describe(*recorder.operation(id)),
            "all-reduce #1 (tensor #1, 40 bytes of metrics, ranks 2,5)");
  // What a device has under way is waited for where the host is not blocked.
  recorder.set_device_probe([&] { return id; });
  EXPECT_EQ(recorder.waiting().sequence, id);
  EXPECT_EQ(recorder.waiting().since, recorder.operation(id)->issued);
}

TEST(FlightRecorder, AReaderNeverSeesHalfAnOperation) {
  FlightRecorder recorder;
  const auto even = recorder.add_axis("even", {0}), odd = recorder.add_axis("odd", {0});
  constexpr FlightRecorder::Id kMany = 200'000;
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (FlightRecorder::Id i = 1; i <= kMany; ++i) {
      recorder.set_step(static_cast<std::int64_t>(i) * 3);
      const auto id = recorder.issue(i % 2 == 0 ? kReduce : kGather, kMetrics,
                                     i % 2 == 0 ? *even : *odd, static_cast<std::int64_t>(i) * 7);
      const FlightRecorder::Waiting waiting(recorder, id);
      recorder.complete(id);
    }
    done = true;
  });
  std::int64_t read = 0, wrong = 0;
  while (!done || read == 0) {
    const FlightRecorder::Id last = recorder.last();
    // The oldest ones are overwritten at this moment.
    for (const FlightRecorder::Id id : {last, last > 1022 ? last - 1022 : last, last / 2}) {
      const auto one = recorder.operation(id);
      if (!one) continue;
      ++read;
      const auto i = static_cast<std::int64_t>(one->sequence);
      const bool same =
          one->sequence == id && one->bytes == i * 7 && one->step == i * 3 &&
          one->axis == (i % 2 == 0 ? 0 : 1) && one->name == (i % 2 == 0 ? kReduce : kGather) &&
          one->axis_sequence == static_cast<std::uint64_t>((i + 1) / 2) && one->issued > 0;
      wrong += same ? 0 : 1;
    }
    const FlightRecorder::Wait wait = recorder.waiting();
    wrong += wait.sequence != 0 && wait.since == 0 ? 1 : 0;
  }
  writer.join();
  EXPECT_EQ(wrong, 0) << "of " << read;
  EXPECT_EQ(recorder.progress(), 2 * kMany);
}

TEST(FlightRecorder, CostsNextToNothing) {
  FlightRecorder recorder;
  const auto axis = recorder.add_axis("world", {0, 1});
  const auto seconds = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  constexpr int kTimes = 200'000;
  const double start = seconds();
  for (int i = 0; i < kTimes; ++i) {
    const auto id = recorder.issue(kReduce, kMetrics, *axis, i);
    const FlightRecorder::Waiting waiting(recorder, id);
    recorder.complete(id);
  }
  const double each = (seconds() - start) / kTimes;
  RecordProperty("nanoseconds", static_cast<int>(each * 1e9));
  fmt::print("an operation takes {:.0f} ns to record\n", each * 1e9);
  EXPECT_LT(each, 20e-6);  // under a sanitizer too; an all-reduce of 8 bytes takes 2 µs and more
}

/// The recordings of a job whose ranks did the operations named, in order.
class FlightReport : public testing::Test {
 protected:
  struct Rank {
    std::vector<const char*> operations;
    bool last_completes = true;
  };
  void write(const std::vector<std::optional<Rank>>& ranks, std::int64_t run) {
    std::vector<int> all(ranks.size());
    std::iota(all.begin(), all.end(), 0);
    for (const int r : all) {
      const auto& rank = ranks[static_cast<std::size_t>(r)];
      if (!rank) continue;
      FlightRecorder recorder;
      recorder.set_place({r, static_cast<int>(ranks.size()), run, {}});
      const auto axis = recorder.add_axis("world", all);
      recorder.set_step(4);
      for (const char* operation : rank->operations) {
        const auto id = recorder.issue(operation, kMetrics, *axis, 8);
        if (rank->last_completes || operation != rank->operations.back()) recorder.complete(id);
      }
      write_json(directory_ / flight_file_name(r), recorder.to_json("hang", "text"));
    }
  }
  std::string findings() const {
    return compare_recordings(directory_.path()).at("findings").dump();
  }
  static bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
  TemporaryDirectory directory_;
};

TEST_F(FlightReport, NamesTheRankThatIsBehindAndItsOperation) {
  write({Rank{{kReduce, kGather, kReduce}, false}, Rank{{kReduce, kGather}},
         Rank{{kReduce, kGather, kReduce}, false}},
        5);
  EXPECT_EQ(findings(),
            R"({"1":"world: rank 1 is behind: 2 of the 3 operations of rank 0; not come to )"
            R"(all-reduce (world #3, 8 bytes of metrics, ranks 0,1,2, step 4), not complete"})");
}

TEST_F(FlightReport, NamesRanksWithoutRecordingAndTheFirstMismatch) {
  write(
      {Rank{{kReduce, kReduce}}, Rank{{kReduce, kGather}}, std::nullopt, Rank{{kReduce, kReduce}}},
      5);
  const std::string text = findings();
  EXPECT_TRUE(has(text, "rank 2 left no recording")) << text;
  EXPECT_TRUE(has(text,
                  "world #2: the ranks are not in the same operation: rank 1 in all-gather of "
                  "rows of metrics; ranks 0, 3 in all-reduce of metrics, 8 bytes"))
      << text;
  EXPECT_EQ(compare_recordings(directory_.path()).at("missing"), nlohmann::json({2}));
}

TEST_F(FlightReport, LeavesOutWhatAnEarlierJobHasWritten) {
  write({Rank{{kReduce}}, Rank{{kGather}}, Rank{{kReduce}}}, 5);
  write({Rank{{kReduce}}, Rank{{kReduce}}}, 6);
  const auto report = compare_recordings(directory_.path());
  EXPECT_EQ(report.at("ranks"), 2);
  EXPECT_EQ(report.at("of_earlier_jobs"), 1);
  EXPECT_EQ(report.at("findings").dump(), R"({"1":"all ranks are in the same operation"})");
}

TEST_F(FlightReport, DamagedRecordingsAreRefused) {
  write({Rank{{kReduce}}}, 5);
  const auto file = directory_ / flight_file_name(0);
  const std::string good = read_file(file);
  EXPECT_EQ(describe_recording(file).at("doing"),
            "works; its last operation is all-reduce (world #1, 8 bytes of metrics, ranks 0, step "
            "4)");
  const std::pair<std::string, std::string> changes[] = {
      {"\"flight recording\"", "\"x\""}, {"\"format_version\": 1", "\"format_version\": 2"},
      {"\"ranks\": 1", "\"ranks\": 0"},  {"\"axis\": 0", "\"axis\": 9"},
      {"\"rank\": 0", "\"rank\": -1"},   {"\"sequence\"", "\"other\""},
      {"\"axes\"", "\"no axes\""}};
  for (const auto& [from, to] : changes) {
    std::string bad = good;
    const auto at = bad.find(from);
    ASSERT_NE(at, std::string::npos) << from << good;
    write_file(file, bad.replace(at, from.size(), to));
    EXPECT_ANY_THROW(describe_recording(file)) << from;
    EXPECT_ANY_THROW(compare_recordings(directory_.path())) << from;
  }
}

}  // namespace
}  // namespace graphlora
