#include "train/benchmark/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.hpp"
#include "train/benchmark/sharing.hpp"
#include "train/benchmark/svg.hpp"

namespace graphlora::benchmark {
namespace {

constexpr const char* kStyle =
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .6em;"
    "text-align:right}td:first-child,th:first-child{text-align:left}"
    ".warning{background:#fff3cd;border:1px solid #e0c060;padding:.6em 1em}"
    "svg{max-width:100%;height:auto;margin:1em "
    "0}pre{white-space:pre-wrap;background:#f5f5f5;padding:1em}";

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.4g} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.4g} ms", 1e3 * seconds);
  return fmt::format("{:.4g} µs", 1e6 * seconds);
}

std::string interval_text(const Estimate& estimate) {
  if (!estimate.interval) return "too few repetitions";
  return fmt::format("{} to {}", seconds_text(estimate.interval->first),
                     seconds_text(estimate.interval->second));
}

std::string rate_text(const RankMeasurement& m, double seconds) {
  if (m.unit.empty() || !(seconds > 0)) return "";
  double rate = std::accumulate(m.work_P.begin(), m.work_P.end(), 0.0) /
                static_cast<double>(m.work_P.size()) / seconds;
  const char* prefix = "";
  for (const auto& [limit, name] : {std::pair(1e9, "G"), {1e6, "M"}, {1e3, "k"}}) {
    if (rate < limit) continue;
    rate /= limit;
    prefix = name;
    break;
  }
  return fmt::format("{:.4g} {}{}/s", rate, prefix, m.unit);
}

std::string row(const std::vector<std::string>& cells, const char* tag = "td") {
  std::string text = "<tr>";
  for (const std::string& cell : cells) text += fmt::format("<{}>{}</{}>", tag, escaped(cell), tag);
  return text + "</tr>\n";
}

const char* label_of(const Run& run) { return run.shared.empty() ? "" : kFunctional; }

/// The number of ranks, and the series where one of them is not in all the bars.
std::string name_of(const Run& run) {
  if (run.series.empty()) return fmt::format("{}", run.ranks);
  return fmt::format("{} × {}", run.ranks, fmt::join(run.series, "+"));
}

std::vector<const Run*> with_steps(const std::vector<Run>& runs) {
  std::vector<const Run*> result;
  for (const Run& run : runs)
    if (run.find("step") != nullptr) result.push_back(&run);
  std::stable_sort(result.begin(), result.end(),
                   [](const Run* a, const Run* b) { return a->ranks < b->ranks; });
  return result;
}

std::string labels(const std::vector<Run>& runs) {
  std::string text;
  for (const Run& run : runs) {
    if (run.shared.empty()) continue;
    text += fmt::format("<br/>{} ranks: {}", run.ranks, escaped(run.shared));
  }
  if (text.empty()) return text;
  return fmt::format(
      "<p class=\"warning\"><b>{}.</b> Ranks share cores or GPUs, so these times show that things "
      "work and what they cost together, not how they scale:{}</p>\n",
      kFunctional, text);
}

std::string scaling_section(const std::vector<Scaled>& scaling) {
  if (scaling.empty()) return "";
  std::vector<Curve> times, efficiencies;
  std::string table =
      "<table>\n" + row({"series", "ranks", "examples", "step (median)", "95 % interval",
                         "tokens/s", "speedup", "efficiency", "label"},
                        "th");
  std::string rules, bases;
  for (const std::string& series : kSeries) {
    Curve measured{series}, ideal{series + ", ideal"}, efficiency{series};
    ideal.marked = false;
    ideal.dashed = true;
    for (const Scaled& point : scaling) {
      if (point.series != series) continue;
      const auto ranks = static_cast<double>(point.run->ranks);
      measured.points.push_back({ranks, point.step.median, point.step.interval});
      ideal.points.push_back({ranks, point.ideal});
      Point& one = efficiency.points.emplace_back(Point{ranks, 100 * point.efficiency});
      if (const auto& interval = point.step.interval) {
        const double scale = one.y * point.step.median;
        one.interval = {scale / interval->second, scale / interval->first};
      }
      if (measured.points.size() == 1) {
        rules += "<li>" + escaped(growth_rule(series)) + "</li>\n";
        bases += fmt::format("<li>{}: {} on {} ranks, {} examples of {:.0f} tokens in all</li>\n",
                             series, seconds_text(point.step.median), point.run->ranks,
                             point.run->batch_size, point.run->tokens_per_step);
      }
      table += row({series, fmt::format("{}", point.run->ranks),
                    fmt::format("{}", point.run->batch_size), seconds_text(point.step.median),
                    interval_text(point.step), fmt::format("{:.0f}", point.tokens_per_s),
                    fmt::format("{:.3f}", point.speedup),
                    fmt::format("{:.1f} %", 100 * point.efficiency), label_of(*point.run)});
    }
    if (measured.points.empty()) continue;
    ideal.color = static_cast<int>(times.size());
    times.push_back(measured);
    times.push_back(ideal);
    efficiencies.push_back(efficiency);
  }
  return "<h2>Scaling</h2>\n<p>How each series grows:</p>\n<ul>\n" + rules +
         "</ul>\n<p>Base cases, in seconds of a step:</p>\n<ul>\n" + bases + "</ul>\n" + table +
         "</table>\n" + line_plot({"Time of a step", "ranks", "seconds", true, true}, times) +
         line_plot({"Efficiency (tokens per second and rank, of the base case's)", "ranks",
                    "percent", true, false},
                   efficiencies);
}

std::string breakdown_section(const std::vector<const Run*>& runs) {
  std::vector<std::string> parts;
  std::vector<Bar> bars;
  Curve spread{"a rank"};
  spread.joined = false;
  std::string memory;
  for (const Run* run : runs) {
    Bar& bar = bars.emplace_back(Bar{name_of(*run), {}});
    std::vector<std::string> names;
    for (const RankMeasurement& m : run->measurements) {
      if (m.name != "phase") continue;
      double mean = 0;
      for (const std::vector<double>& seconds : m.seconds_P)
        mean += estimate(seconds).median / static_cast<double>(m.seconds_P.size());
      bar.parts.push_back(mean);
      names.push_back(m.what);
    }
    if (names.size() > parts.size()) parts = names;
    const RankMeasurement* step = run->find("step");
    const RankMeasurement* waiting = run->find("communication", "waited for");
    for (std::size_t rank = 0; rank < step->seconds_P.size(); ++rank) {
      std::vector<double> working = step->seconds_P[rank];
      for (std::size_t i = 0; waiting != nullptr && i < working.size(); ++i)
        working[i] = std::max(0.0, working[i] - waiting->seconds_P[rank][i]);
      const Estimate one = estimate(working);
      // Ranks of one run side by side.
      const double place = static_cast<double>(run->ranks) *
                           (1 + 0.02 * (static_cast<double>(rank) -
                                        0.5 * static_cast<double>(step->seconds_P.size() - 1)));
      spread.points.push_back({place, one.median, one.interval});
    }
    if (!run->memory_P.empty())
      memory += row({name_of(*run),
                     fmt::format("{:.3f}", static_cast<double>(*std::max_element(
                                               run->memory_P.begin(), run->memory_P.end())) /
                                               (1 << 30)),
                     fmt::format("{:.3f}", run->token_imbalance)});
  }
  if (bars.empty()) return "";
  for (Bar& bar : bars) bar.parts.resize(parts.size());
  return "<h2>Where the time goes</h2>\n" +
         bar_plot({"Phases of a step (median of repetitions, mean of ranks)", "ranks", "seconds"},
                  parts, bars) +
         line_plot({"Spread over ranks: a step without what it waits for", "ranks", "seconds", true,
                    false},
                   {spread}) +
         "<table>\n" +
         row({"ranks", "memory of the largest rank, GiB", "tokens of a rank, most over mean"},
             "th") +
         memory + "</table>\n";
}

std::string curves_section(const std::vector<Run>& runs) {
  std::map<std::string, std::vector<Curve>> plots;
  for (const Run& run : runs) {
    std::map<std::string, std::vector<Point>> products;
    for (const RankMeasurement& m : run.measurements) {
      const Estimate one = estimate(m.slowest());
      if (m.name.starts_with("matrices")) {
        if (m.what.find("bf16") != std::string::npos)
          products[fmt::format("{} {}, {} ranks", m.what.substr(0, m.what.find(' ')),
                               m.name.substr(9), run.ranks)]
              .push_back({m.size, 1e-9 * m.work_P.front() / one.median});
      } else if (m.name == "all-reduce" || m.name == "all-to-all") {
        products[fmt::format("{}, {} ranks", m.name, run.ranks)].push_back(
            {m.size, one.median, one.interval});
      }
    }
    for (auto& [name, points] : products)
      plots[name.starts_with("all-") ? "messages" : "products"].push_back({name, points});
  }
  std::string text;
  if (plots.contains("products"))
    text += line_plot(
        {"Products of the model's shapes, bf16, one rank", "tokens", "GFLOP/s", true, true},
        plots["products"]);
  if (plots.contains("messages"))
    text += line_plot({"Collectives", "bytes", "seconds", true, true}, plots["messages"]);
  return text;
}

std::string parts_section(const std::vector<Run>& runs) {
  std::string table;
  for (const Run& run : runs) {
    for (const RankMeasurement& m : run.measurements) {
      if (m.name == "step" || m.name == "phase" || m.name == "communication") continue;
      const Estimate one = estimate(m.slowest());
      table += row({m.name, m.what, fmt::format("{}", run.ranks), seconds_text(one.median),
                    interval_text(one), rate_text(m, one.median), label_of(run)});
    }
  }
  if (table.empty()) return "";
  return "<h2>Parts by themselves</h2>\n" + curves_section(runs) + "<table>\n" +
         row({"what", "", "ranks", "median", "95 % interval", "rate of a rank", "label"}, "th") +
         table + "</table>\n";
}

/// Measured steps against the predictions for the same ranks, batch and grid.
std::string prediction_section(const std::vector<const Run*>& runs, const nlohmann::json& plan) {
  if (plan.is_null()) return "";
  Curve measured{"measured"}, predicted{"predicted"};
  measured.joined = predicted.joined = false;
  std::string table;
  try {
    for (const auto& one : plan.at("plans")) {
      const double seconds = one.at("step_seconds").get<double>();
      const auto found = std::find_if(runs.begin(), runs.end(), [&](const Run* run) {
        return run->ranks == one.at("ranks") && run->batch_size == one.at("batch_size") &&
               run->tensor_parallel == one.at("tensor_parallel");
      });
      if (found == runs.end()) continue;
      const Run& run = **found;
      const Estimate step = estimate(run.find("step")->slowest());
      const auto ranks = static_cast<double>(run.ranks);
      measured.points.push_back({ranks, step.median, step.interval});
      predicted.points.push_back({ranks, seconds});
      table += row({fmt::format("{}", run.ranks), fmt::format("{}", run.batch_size),
                    seconds_text(step.median), seconds_text(seconds),
                    fmt::format("{:+.1f} %", 100 * (seconds / step.median - 1))});
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError("--plan: {}; is it what graphlora plan --json printed?", error.what());
  }
  if (table.empty())
    return "<h2>Predicted and measured</h2>\n<p>The plan has none of these numbers of ranks and "
           "examples.</p>\n";
  return "<h2>Predicted and measured</h2>\n" +
         line_plot({"Time of a step, predicted and measured", "ranks", "seconds", true, false},
                   {measured, predicted}) +
         "<table>\n" + row({"ranks", "examples", "measured", "predicted", "error"}, "th") + table +
         "</table>\n";
}

}  // namespace

std::string report_html(const std::vector<Run>& runs, const nlohmann::json& plan) {
  const std::vector<const Run*> steps = with_steps(runs);
  std::string where;
  for (const Run& run : runs) {
    where += fmt::format(
        "<details><summary>{} ranks{}</summary>\n<pre>{}</pre>\n<pre>{}</pre></details>\n",
        run.ranks, run.series.empty() ? "" : " (" + name_of(run) + ")",
        escaped(run.setting.dump(1, ' ', false, nlohmann::json::error_handler_t::replace)),
        escaped(run.environment.dump(1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
  return "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
         "<meta charset=\"utf-8\"/>\n<title>graphlora benchmark</title>\n<style>" +
         std::string(kStyle) + "</style>\n</head>\n<body>\n<h1>graphlora benchmark</h1>\n" +
         labels(runs) +
         "<p>Times are medians over repetitions of the slowest rank, with the 95 % interval of the "
         "median by order statistics; results.csv has every repetition of every rank.</p>\n" +
         scaling_section(scaling_of(runs)) + breakdown_section(steps) +
         prediction_section(steps, plan) + parts_section(runs) +
         "<h2>Where it was measured</h2>\n" + where + "</body>\n</html>\n";
}

}  // namespace graphlora::benchmark
