#include "train/benchmark/summary.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.hpp"
#include "core/file.hpp"
#include "train/benchmark/report.hpp"
#include "train/benchmark/sharing.hpp"

namespace graphlora::benchmark {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr const char* kSummary = "summary.json";

/// A text field of CSV.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"') result += '"';
    result += c;
  }
  return result + '"';
}

std::string csv(const std::vector<Run>& runs) {
  std::string text =
      "series,ranks,tensor_parallel,batch_size,name,what,rank,repetition,seconds,work,unit,label\n";
  for (const Run& run : runs) {
    const std::string series = fmt::format("{}", fmt::join(run.series, "+"));
    for (const RankMeasurement& m : run.measurements) {
      for (std::size_t rank = 0; rank < m.seconds_P.size(); ++rank) {
        for (std::size_t i = 0; i < m.seconds_P[rank].size(); ++i) {
          text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{}\n", series, run.ranks,
                              run.tensor_parallel, run.batch_size, quoted(m.name), quoted(m.what),
                              rank, i + 1, m.seconds_P[rank][i], m.work_P[rank], m.unit,
                              quoted(run.shared.empty() ? "" : kFunctional));
        }
      }
    }
  }
  return text;
}

Json interval_json(const Estimate& estimate) {
  if (!estimate.interval) return nullptr;
  return {estimate.interval->first, estimate.interval->second};
}

}  // namespace

const RankMeasurement* Run::find(const std::string& name, const std::string& what) const {
  const auto found = std::find_if(
      measurements.begin(), measurements.end(),
      [&](const RankMeasurement& m) { return m.name == name && (what.empty() || m.what == what); });
  return found == measurements.end() ? nullptr : &*found;
}

bool Run::in(const std::string& name) const {
  return std::find(series.begin(), series.end(), name) != series.end();
}

std::string growth_rule(const std::string& series) {
  if (series == "strong")
    return "strong: the same batch, model and graph at every number of ranks; each number of ranks "
           "has a division of the graph of its own, with as many parts as ranks";
  if (series == "fixed")
    return "fixed partition: as strong, and the graph is cut once, into as many parts as the "
           "largest number of ranks; fewer ranks hold several of these parts each, so that only "
           "the number of ranks changes";
  return "weak: the batch grows with the ranks (examples of a step = those of one rank × ranks); "
         "model and graph stay, so a rank's share of the graph shrinks";
}

std::vector<Scaled> scaling_of(const std::vector<Run>& runs) {
  std::vector<Scaled> all;
  for (const std::string& series : kSeries) {
    std::vector<Scaled> points;
    for (const Run& run : runs) {
      const RankMeasurement* step = run.find("step");
      if (step == nullptr || !run.in(series)) continue;
      Scaled& point = points.emplace_back();
      point.series = series;
      point.run = &run;
      point.step = estimate(step->slowest());
      point.tokens_per_s = run.tokens_per_step / point.step.median;
    }
    std::stable_sort(points.begin(), points.end(),
                     [](const Scaled& a, const Scaled& b) { return a.run->ranks < b.run->ranks; });
    for (Scaled& point : points) {
      const Scaled& base = points.front();
      const double growth =
          static_cast<double>(point.run->ranks) / static_cast<double>(base.run->ranks);
      // By throughput: batches of different sizes have different tokens.
      point.speedup = point.tokens_per_s / base.tokens_per_s;
      point.efficiency = point.speedup / growth;
      point.ideal = point.efficiency * point.step.median;
    }
    all.insert(all.end(), points.begin(), points.end());
  }
  return all;
}

Json to_json(const Run& run) {
  Json json{{"series", run.series},
            {"ranks", run.ranks},
            {"tensor_parallel", run.tensor_parallel},
            {"batch_size", run.batch_size},
            {"micro_batch", run.micro_batch},
            {"threads", run.threads},
            {"label", run.shared.empty() ? "" : kFunctional},
            {"shared", run.shared},
            {"tokens_per_step", run.tokens_per_step},
            {"token_imbalance", run.token_imbalance},
            {"memory_bytes", run.memory_P},
            {"setting", run.setting},
            {"environment", run.environment},
            {"measurements", Json::array()}};
  for (const RankMeasurement& m : run.measurements) {
    const Estimate of_slowest = estimate(m.slowest());
    const double work = std::accumulate(m.work_P.begin(), m.work_P.end(), 0.0) /
                        static_cast<double>(m.work_P.size());
    json["measurements"].push_back({{"name", m.name},
                                    {"what", m.what},
                                    {"median_seconds", of_slowest.median},
                                    {"interval_95", interval_json(of_slowest)},
                                    {"work", m.work_P},
                                    {"unit", m.unit},
                                    {"size", m.size},
                                    {"per_second", m.unit.empty() || !(of_slowest.median > 0)
                                                       ? Json(nullptr)
                                                       : Json(work / of_slowest.median)},
                                    {"seconds", m.seconds_P}});
  }
  return json;
}

Run run_from_json(const nlohmann::json& json, const std::string& where) {
  Run run;
  try {
    const auto positive = [&](const char* key) {
      const auto value = json.at(key).get<std::int64_t>();
      if (value < 1 || value > (1LL << 30)) throw DataError("{}: {} is {}", where, key, value);
      return value;
    };
    json.at("series").get_to(run.series);
    for (const std::string& series : run.series)
      if (std::find(kSeries.begin(), kSeries.end(), series) == kSeries.end())
        throw DataError("{}: series is '{}'; known are {}", where, series,
                        fmt::join(kSeries, ", "));
    run.ranks = positive("ranks");
    run.tensor_parallel = positive("tensor_parallel");
    run.batch_size = positive("batch_size");
    run.micro_batch = positive("micro_batch");
    run.threads = positive("threads");
    json.at("shared").get_to(run.shared);
    json.at("tokens_per_step").get_to(run.tokens_per_step);
    json.at("token_imbalance").get_to(run.token_imbalance);
    json.at("memory_bytes").get_to(run.memory_P);
    run.setting = json.at("setting");
    run.environment = json.at("environment");
    for (const auto& m : json.at("measurements")) {
      RankMeasurement& one = run.measurements.emplace_back();
      m.at("name").get_to(one.name);
      m.at("what").get_to(one.what);
      m.at("unit").get_to(one.unit);
      m.at("size").get_to(one.size);
      m.at("work").get_to(one.work_P);
      m.at("seconds").get_to(one.seconds_P);
      const auto ranks = static_cast<std::size_t>(run.ranks);
      if (one.work_P.size() != ranks || one.seconds_P.size() != ranks ||
          one.seconds_P.front().empty() ||
          std::any_of(one.seconds_P.begin(), one.seconds_P.end(), [&](const auto& seconds) {
            return seconds.size() != one.seconds_P.front().size() ||
                   std::any_of(seconds.begin(), seconds.end(), [](double s) { return !(s >= 0); });
          }))
        throw DataError("{}: {} {}: not the same number of times for each of {} ranks", where,
                        one.name, one.what, run.ranks);
      if (one.name == "step" && (estimate(one.slowest()).median <= 0 || run.tokens_per_step <= 0))
        throw DataError("{}: steps without time or tokens", where);
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: {}; is it a summary.json of graphlora benchmark?", where, error.what());
  }
  return run;
}

std::vector<Run> read_runs(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kSummary;
  const nlohmann::json json = read_json(path);
  if (!json.is_object() || !json.contains("runs") || !json["runs"].is_array() ||
      json.value("format_version", nlohmann::json()) != kFormat)
    throw DataError("{}: is no summary of graphlora benchmark (format {})", path.string(), kFormat);
  std::vector<Run> runs;
  for (const auto& run : json["runs"])
    runs.push_back(run_from_json(run, fmt::format("{}: runs[{}]", path.string(), runs.size())));
  return runs;
}

void write_study(const std::filesystem::path& directory, const std::vector<Run>& runs,
                 const nlohmann::json& plan) {
  const std::vector<Scaled> scaling = scaling_of(runs);
  Json json{{"format_version", kFormat}, {"scaling", Json::array()}, {"growth", Json::object()}};
  for (const Scaled& point : scaling) {
    json["growth"][point.series] = growth_rule(point.series);
    json["scaling"].push_back({{"series", point.series},
                               {"ranks", point.run->ranks},
                               {"batch_size", point.run->batch_size},
                               {"step_seconds", point.step.median},
                               {"interval_95", interval_json(point.step)},
                               {"ideal_seconds", point.ideal},
                               {"tokens_per_s", point.tokens_per_s},
                               {"speedup", point.speedup},
                               {"efficiency", point.efficiency},
                               {"label", point.run->shared.empty() ? "" : kFunctional}});
  }
  for (const Run& run : runs) json["runs"].push_back(to_json(run));
  write_file(directory / "results.csv", csv(runs));
  write_file(directory / "report.html", report_html(runs, plan));
  write_file(directory / kSummary, json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace graphlora::benchmark
