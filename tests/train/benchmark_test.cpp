// What a study of synthetic runs says, and what its report shows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/property_tree/xml_parser.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"
#include "support/temporary_directory.hpp"
#include "support/tiny_world.hpp"
#include "train/benchmark/fixed_partition.hpp"
#include "train/benchmark/measure_run.hpp"
#include "train/benchmark/report.hpp"
#include "train/benchmark/sharing.hpp"
#include "train/benchmark/svg.hpp"

namespace graphlora {
namespace {

using namespace benchmark;  // NOLINT: of the tests

/// Probability that the median of a continuous distribution lies between the order statistics `low`
/// and `high` (from 0) of `count` values, summed term by term.
double coverage(int count, int low, int high) {
  double sum = 0, term = std::pow(0.5, count);
  for (int k = 0; k <= count; ++k) {
    if (k > low && k <= high) sum += term;
    term *= static_cast<double>(count - k) / (k + 1);
  }
  return sum;
}

TEST(BenchmarkStatistics, IntervalsCoverAndAreTheNarrowestThatDo) {
  for (int count = 1; count <= 200; ++count) {
    const auto bounds = median_bounds(count);
    ASSERT_EQ(bounds.has_value(), count >= kFewestForInterval) << count;
    if (!bounds) continue;
    EXPECT_EQ(bounds->first + bounds->second, count - 1);
    EXPECT_GE(coverage(count, bounds->first, bounds->second), 0.95) << count;
    if (bounds->first + 1 < bounds->second - 1) {
      EXPECT_LT(coverage(count, bounds->first + 1, bounds->second - 1), 0.95) << count;
    }
  }
}

TEST(BenchmarkStatistics, MedianAndItsInterval) {
  EXPECT_EQ(estimate({3, 1, 2}).median, 2);
  EXPECT_EQ(estimate({4, 1, 2, 3}).median, 2.5);
  EXPECT_FALSE(estimate({1, 2, 3, 4, 5}).interval);
  std::vector<double> values(11);
  std::iota(values.begin(), values.end(), 1);
  std::reverse(values.begin(), values.end());
  const Estimate eleven = estimate(values);
  EXPECT_EQ(eleven.median, 6);
  EXPECT_EQ(eleven.interval, std::pair(2.0, 10.0));
}

TEST(BenchmarkStatistics, IntervalHoldsTheMedianOfSkewedDraws) {
  SplitMix64 random(4);
  int held = 0;
  constexpr int kTrials = 2000;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> values;
    for (int i = 0; i < 15; ++i) values.push_back(-std::log(1 - random.uniform()));
    const auto interval = estimate(values).interval;
    held += interval->first <= std::log(2) && std::log(2) <= interval->second ? 1 : 0;
  }
  EXPECT_GE(held, 0.94 * kTrials);
  EXPECT_LE(held, 0.985 * kTrials);
}

RankPlace place(const std::string& host, std::vector<int> cores) {
  return {.host = host, .device = "cpu", .cores = std::move(cores)};
}

TEST(BenchmarkSharing, CoresQuotasAndGpus) {
  const std::vector<RankPlace> two{place("a", {0, 1}), place("a", {0, 1})};
  const std::vector<double> free{0, 0};
  const std::vector<std::string> cpus{"", ""};
  EXPECT_EQ(what_is_shared(two, std::vector{1, 1}, free, cpus), "");
  EXPECT_EQ(what_is_shared(two, std::vector{1, 2}, free, cpus),
            "3 threads of 2 ranks on 2 cores of a");
  EXPECT_EQ(what_is_shared(two, std::vector{1, 1}, std::vector{1.0, 1.0}, cpus),
            "2 threads of 2 ranks on 1 cores of a");
  EXPECT_EQ(what_is_shared(two, std::vector{1, 1}, free, std::vector<std::string>{"g", "g"}),
            "2 ranks on a GPU of a");
  EXPECT_EQ(what_is_shared(two, std::vector{1, 1}, free, std::vector<std::string>{"g", "h"}), "");
  const std::vector<RankPlace> hosts{place("a", {0, 1}), place("b", {0, 1})};
  EXPECT_EQ(what_is_shared(hosts, std::vector{2, 2}, free, cpus), "");
  EXPECT_EQ(what_is_shared(hosts, std::vector{2, 2}, free, std::vector<std::string>{"g", "g"}), "")
      << "the same name on another host is another GPU";
}

/// Steps of `seconds` on each rank, rank r taking r percent more; a phase, what it waits for, and a
/// message.
Run made_run(std::int64_t ranks, std::int64_t batch, double seconds,
             std::vector<std::string> series) {
  Run run;
  run.series = std::move(series);
  run.ranks = ranks;
  run.batch_size = batch;
  run.micro_batch = 100;
  run.tokens_per_step = 50.0 * static_cast<double>(batch);
  RankMeasurement step{"step", "", "tokens"}, llm{"phase", "LLM & <loss>", ""},
      sync{"phase", "gradient sync", ""}, waiting{"communication", "waited for", "bytes"},
      message{"all-reduce", "8 bytes", "bytes", 8};
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    std::vector<double> times;
    for (int i = 0; i < 7; ++i)
      times.push_back(seconds * (1 + 0.01 * static_cast<double>(rank)) * (1 + 0.001 * i));
    const auto part = [&](double share) {
      std::vector<double> result = times;
      for (double& time : result) time *= share;
      return result;
    };
    for (auto [m, share] :
         {std::pair(&step, 1.0), {&llm, 0.75}, {&sync, 0.25}, {&waiting, 0.1}, {&message, 1e-4}}) {
      m->work_P.push_back(run.tokens_per_step);
      m->seconds_P.push_back(part(share));
    }
  }
  run.measurements = {step, llm, sync, waiting, message};
  run.memory_P.assign(static_cast<std::size_t>(ranks), 1 << 30);
  run.setting["note"] = "<&>";
  return run;
}

std::vector<Run> made_study() {
  std::vector<Run> runs{made_run(1, 8, 8, {"strong", "weak"}), made_run(2, 8, 5, {"strong"}),
                        made_run(4, 8, 4, {"strong"}), made_run(2, 16, 9, {"weak"}),
                        made_run(4, 32, 10, {"weak"})};
  runs[2].shared = "4 threads of 4 ranks on 2 cores of n";
  return runs;
}

TEST(BenchmarkSummary, SpeedupAndEfficiency) {
  const auto runs = made_study();
  std::map<std::pair<std::string, std::int64_t>, Scaled> by;
  for (const Scaled& point : scaling_of(runs)) by[{point.series, point.run->ranks}] = point;
  ASSERT_EQ(by.size(), 6u);
  const double base = 8 * 1.003, two = 5 * 1.01 * 1.003, weak_four = 10 * 1.03 * 1.003;
  const Scaled strong = by[{"strong", 2}], weak = by[{"weak", 4}];
  EXPECT_NEAR((by[{"strong", 1}].step.median), base, 1e-12);
  EXPECT_NEAR(strong.step.median, two, 1e-12) << "the slowest rank's";
  EXPECT_NEAR(strong.speedup, base / two, 1e-12);
  EXPECT_NEAR(strong.efficiency, base / two / 2, 1e-12);
  EXPECT_NEAR(strong.ideal, base / 2, 1e-12);
  EXPECT_NEAR(weak.efficiency, base / weak_four, 1e-12);
  EXPECT_NEAR(weak.ideal, base, 1e-12);
}

TEST(BenchmarkSummary, ReadsBackWhatItWrote) {
  const TemporaryDirectory directory;
  write_study(directory.path(), made_study(), nullptr);
  const auto runs = read_runs(directory.path());
  ASSERT_EQ(runs.size(), 5u);
  EXPECT_EQ(to_json(runs[2]), to_json(made_study()[2]));
  std::istringstream csv(read_file(directory.path() / "results.csv"));
  std::int64_t lines = 0, functional = 0;
  for (std::string line; std::getline(csv, line); ++lines)
    functional += line.ends_with(",\"functional, not scaling\"") ? 1 : 0;
  EXPECT_EQ(lines, 1 + 5 * 7 * (1 + 2 + 4 + 2 + 4));
  EXPECT_EQ(functional, 5 * 7 * 4);
  const auto summary = read_json(directory.path() / "summary.json");
  EXPECT_EQ(summary["scaling"].size(), 6u);
  EXPECT_NE(summary["growth"]["weak"].get<std::string>().find("grows with the ranks"),
            std::string::npos);
}

TEST(BenchmarkSummary, RefusesWhatIsNoSummary) {
  const TemporaryDirectory directory;
  const auto refused = [&](const nlohmann::json& json, const std::string& part) {
    write_json(directory.path() / "summary.json", json);
    try {
      read_runs(directory.path());
      ADD_FAILURE() << "accepted: " << json.dump();
    } catch (const DataError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("summary.json"), std::string::npos) << message;
      EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  };
  refused(nullptr, "is no summary");
  refused({{"format_version", 7}, {"runs", nlohmann::json::array()}}, "is no summary");
  nlohmann::json good{{"format_version", 1}, {"runs", {to_json(made_run(2, 8, 1, {"strong"}))}}};
  const auto changed = [&](const std::string& pointer, const nlohmann::json& value) {
    nlohmann::json copy = good;
    copy[nlohmann::json::json_pointer("/runs/0" + pointer)] = value;
    return copy;
  };
  refused(changed("/ranks", 0), "ranks is 0");
  refused(changed("/ranks", 3), "for each of 3 ranks");
  refused(changed("/series", {"round"}), "'round'");
  refused(changed("/measurements/0/seconds/0", {1.0}), "step");
  refused(changed("/measurements/0/seconds/0/0", -1), "step");
  refused(changed("/measurements/0/seconds", nlohmann::json::array()), "step");
  refused(changed("/tokens_per_step", 0), "without time or tokens");
  refused(changed("/measurements", 3), "runs[0]");
}

/// Elements by "name.class" anywhere below.
void count_elements(const boost::property_tree::ptree& tree, std::map<std::string, int>& counts) {
  for (const auto& [name, child] : tree) {
    if (name == "<xmlattr>") continue;
    ++counts[name + "." + child.get("<xmlattr>.class", "")];
    count_elements(child, counts);
  }
}

std::map<std::string, int> elements_of(const std::string& html) {
  // The parser takes neither a doctype nor entities other than XML's own.
  const std::string doctype = "<!DOCTYPE html>\n";
  EXPECT_TRUE(html.starts_with(doctype));
  std::istringstream stream(html.substr(doctype.size()));
  boost::property_tree::ptree tree;
  boost::property_tree::read_xml(stream, tree);
  std::map<std::string, int> counts;
  count_elements(tree, counts);
  return counts;
}

TEST(BenchmarkReport, HoldsEveryPoint) {
  const nlohmann::json plan{
      {"plans",
       {{{"ranks", 2}, {"batch_size", 8}, {"tensor_parallel", 1}, {"step_seconds", 5.5}},
        {{"ranks", 4}, {"batch_size", 8}, {"tensor_parallel", 1}, {"step_seconds", 3.5}},
        {{"ranks", 64}, {"batch_size", 8}, {"tensor_parallel", 1}, {"step_seconds", 1}}}}};
  const std::string html = report_html(made_study(), plan);
  const auto counts = elements_of(html);
  const int times = 6, efficiencies = 6, spread = 1 + 2 + 4 + 2 + 4, predictions = 2 * 2,
            messages = 5;
  EXPECT_EQ(counts.at("circle.point"), times + efficiencies + spread + predictions + messages);
  EXPECT_EQ(counts.at("rect.bar"), 5 * 2);
  EXPECT_EQ(counts.at("svg."), 6);
  EXPECT_GE(counts.at("line.interval"), times + efficiencies);
  EXPECT_NE(html.find("functional, not scaling"), std::string::npos);
  EXPECT_NE(html.find("4 threads of 4 ranks on 2 cores of n"), std::string::npos);
  EXPECT_NE(html.find("8.024 s on 1 ranks"), std::string::npos) << "the base case in seconds";
  EXPECT_EQ(html.find("http://www.w3.org/2000/svg"), html.find("http://www.w3.org/2000"));
  for (const char* outside : {"src=", "href=", "@import", "url("})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  EXPECT_EQ(elements_of(report_html(made_study(), nullptr)).at("svg."), 5);
}

TEST(BenchmarkReport, NoLabelWhereNothingIsShared) {
  EXPECT_EQ(report_html({made_run(2, 8, 1, {"strong"})}, nullptr).find(kFunctional),
            std::string::npos);
}

TEST(BenchmarkReport, HoldsUpWithLittleOrStrangeData) {
  benchmark::Run tokenizer = made_run(1, 8, 1, {});
  tokenizer.measurements.erase(tokenizer.measurements.begin(), tokenizer.measurements.end() - 1);
  EXPECT_EQ(elements_of(report_html({tokenizer}, nullptr)).at("circle.point"), 1);
  EXPECT_EQ(elements_of(report_html({}, nullptr)).count("circle.point"), 0u);
  EXPECT_THROW(report_html(made_study(), {{"x", 1}}), DataError);
  const double nan = std::nan("");
  const std::string svg =
      line_plot({"t", "x", "y", true, true}, {{"c", {{0, 1}, {1, 0}, {nan, 1}, {1, nan}, {2, 3}}}});
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("class=\"point\""), svg.rfind("class=\"point\"")) << "one can be drawn";
}

TEST(BenchmarkRun, MeasuresEveryPartOfARealStep) {
  const test::SharedDataset data;
  Job& job = test::job();
  const Workspace workspace(job, data.path(), {});
  Recommender model(job, workspace, test::kTinyLlama, test::tiny_model_config(),
                    test::tiny_embeddings(workspace, 10, at::kDouble), false);
  TrainConfig config;
  config.batch_size = 9;
  config.micro_batch = 300;
  config.steps = 10;
  const int ranks = job.world()->size();
  const benchmark::Run run = measure_run(job, model, config,
                                         {.repetitions = {1, 3},
                                          .model_directory = test::kTinyLlama,
                                          .scratch = data.directory() / "save",
                                          .version = "here"});
  EXPECT_EQ(run.ranks, ranks);
  EXPECT_GT(run.tokens_per_step, 0);
  ASSERT_EQ(run.memory_P.size(), static_cast<std::size_t>(ranks));
  std::map<std::string, int> names;
  for (const RankMeasurement& m : run.measurements) {
    ++names[m.name];
    ASSERT_EQ(m.seconds_P.size(), static_cast<std::size_t>(ranks)) << m.name;
    for (const auto& seconds : m.seconds_P) EXPECT_EQ(seconds.size(), 3u) << m.name << m.what;
  }
  for (const char* name : {"step", "communication", "phase", "matrices forward",
                           "matrices backward", "decoder", "SpMM", "tokenizer", "loader", "save"})
    EXPECT_GE(names[name], 1) << name;
  for (const char* name : {"halo", "all-reduce", "all-to-all"})
    EXPECT_EQ(names[name] > 0, ranks > 1) << name;
  // The phases are those of the step: together they take no longer, and most of its time.
  double phases = 0;
  for (const RankMeasurement& m : run.measurements)
    if (m.name == "phase")
      for (const double seconds : m.seconds_P[0]) phases += seconds;
  const auto& steps = run.find("step")->seconds_P[0];
  const double all = std::accumulate(steps.begin(), steps.end(), 0.0);
  EXPECT_LE(phases, all);
  EXPECT_GT(phases, 0.5 * all);
  EXPECT_FALSE(std::filesystem::exists(data.directory() / "save"));
  if (job.world()->rank() == 0) {
    EXPECT_EQ(run.environment["ranks"].size(), static_cast<std::size_t>(ranks));
    EXPECT_EQ(run.environment["versions"][0], "here");
    // What was not trained: gradients of the decoder alone are gone.
    const benchmark::Run back = run_from_json(nlohmann::json::parse(to_json(run).dump()), "here");
    EXPECT_EQ(back.measurements.size(), run.measurements.size());
  }
  for (const Parameter& parameter : model.parameters())
    EXPECT_FALSE(parameter.value.grad().defined()) << parameter.name;
}

TEST(BenchmarkFixedPartition, FewerRanksHoldNeighbouringParts) {
  const TemporaryDirectory directory;
  test::write_tiny_dataset(directory / "dataset", 40, 30, "user-time");
  const std::vector<std::int64_t> ranks{1, 2, 4};
  const auto fixed = directory.path() / "fixed";
  write_fixed_partitions(directory.path() / "dataset", {}, ranks, fixed);
  const Dataset dataset(fixed);
  EXPECT_EQ(dataset.fingerprint(), Dataset(directory.path() / "dataset").fingerprint());
  std::vector<int> owner_of_four(static_cast<std::size_t>(dataset.nodes()), -1);
  for (const std::int64_t count : {4, 2, 1}) {
    PartitionConfig config;
    config.parts = count;
    EXPECT_FALSE(reason_to_partition(dataset, config, Reuse::same_division));
    for (int part = 0; part < count; ++part) {
      const Shard shard(fixed / fmt::format("partition-{}", count), part, dataset);
      const auto* owned = shard.owned().const_data_ptr<std::int64_t>();
      for (std::int64_t i = 0; i < shard.owned_count(); ++i) {
        int& four = owner_of_four[static_cast<std::size_t>(owned[i])];
        if (count == 4) four = part;
        EXPECT_EQ(four / (4 / count), part) << count << " parts, node " << owned[i];
      }
    }
  }
  EXPECT_THROW(write_fixed_partitions(directory.path() / "dataset", {},
                                      std::vector<std::int64_t>{2, 3}, directory.path() / "other"),
               ConfigError);
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "other"));
}

}  // namespace
}  // namespace graphlora
