#include "train/plan/calibrate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <numeric>

#include "core/error.hpp"

namespace graphlora::plan {
namespace {

using benchmark::Run;

constexpr double kFp32 = 4, kReferenceWidth = 8;
constexpr double kPassesOverE = 6;      // E and two moments, read and written
constexpr double kDenseAdamBytes = 28;  // and the gradient
constexpr double kSmall = 64;           // bytes: a message up to this size takes the latency alone

double median_of(const benchmark::RankMeasurement& m) {
  return benchmark::estimate(m.slowest()).median;
}

double number(const Run& run, const char* key) {
  try {
    return run.setting.at("sizes").at(key).get<double>();
  } catch (const nlohmann::json::exception& error) {
    throw DataError("--calibrate: {}; measure again with this version of benchmark", error.what());
  }
}

double distance(double a, double b) { return std::abs(std::log(a / b)); }

/// The run with all kinds of measurements that is nearest.
const Run& nearest(const std::vector<Run>& runs, std::int64_t hidden, std::int64_t ranks) {
  const Run* best = nullptr;
  std::pair<double, double> least;
  for (const Run& run : runs) {
    if (run.find("decoder") == nullptr || run.find("step") == nullptr) continue;
    const std::pair<double, double> far{
        distance(number(run, "hidden"), static_cast<double>(hidden)),
        distance(static_cast<double>(run.ranks), static_cast<double>(ranks))};
    if (best != nullptr && !(far < least)) continue;
    best = &run;
    least = far;
  }
  if (best == nullptr) throw DataError("--calibrate: no run with --what all among the results");
  return *best;
}

/// What a run measured: all that two runs of one thing have in common.
nlohmann::ordered_json subject(const Run& run) {
  nlohmann::ordered_json setting = run.setting;
  const auto forget = [&](const char* part, std::initializer_list<const char*> keys) {
    if (!setting.is_object() || !setting.contains(part) || !setting[part].is_object()) return;
    for (const char* key : keys) setting[part].erase(key);
  };
  forget("sizes", {"activation_bytes", "program_bytes"});
  forget("options", {"output", "series", "scaling", "ranks", "repetitions", "warm-up", "plan",
                     "merge", "launcher"});
  return {run.ranks,       run.tensor_parallel,
          run.threads,     run.batch_size,
          run.micro_batch, run.measurements.size(),
          setting,         run.environment.value("hosts", nlohmann::ordered_json::array())};
}

/// `run` with the repetitions of the others that measured the same: a machine is not equally fast
/// at all times. `count` is how many they are.
Run pooled(const std::vector<Run>& runs, const Run& run, std::int64_t& count) {
  Run all = run;
  double tokens = 0, repetitions = 0;
  count = 0;
  const nlohmann::ordered_json wanted = subject(run);
  for (const Run& other : runs) {
    const auto* steps = other.find("step");
    if (steps == nullptr || subject(other) != wanted) continue;
    const auto times = static_cast<double>(steps->slowest().size());
    tokens += times * other.tokens_per_step;
    repetitions += times;
    ++count;
    if (&other == &run) continue;
    for (auto& mine : all.measurements) {
      const auto same = std::ranges::find_if(other.measurements, [&](const auto& one) {
        return one.name == mine.name && one.what == mine.what && one.size == mine.size &&
               one.seconds_P.size() == mine.seconds_P.size();
      });
      if (same == other.measurements.end()) continue;
      for (std::size_t rank = 0; rank < mine.seconds_P.size(); ++rank) {
        auto& seconds = mine.seconds_P[rank];
        const auto& more = same->seconds_P[rank];
        seconds.insert(seconds.end(), more.begin(), more.end());
      }
    }
  }
  all.tokens_per_step = tokens / repetitions;
  return all;
}

/// Of a step or a phase the mean: its batches have different numbers of tokens, of which the mean
/// is known.
double mean_of(const benchmark::RankMeasurement& m) {
  const std::vector<double> seconds = m.slowest();
  return std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(seconds.size());
}

double mean_phase(const Run& run, const char* name) {
  const auto* m = run.find("phase", name);
  return m == nullptr ? 0 : mean_of(*m);
}

/// What a pack takes beyond another of its length: the median over the lengths measured.
double new_length_seconds(const Run& run) {
  std::vector<double> seconds;
  for (const auto& first : run.measurements) {
    if (first.name != "decoder, new length") continue;
    for (const auto& again : run.measurements)
      if (again.name == "decoder" && again.size == first.size)
        seconds.push_back(std::max(0.0, median_of(first) - median_of(again)));
  }
  return seconds.empty() ? 0 : benchmark::estimate(seconds).median;
}

/// How what no prediction knows of grows with the activations, over all runs: freed blocks that the
/// heap keeps. 0 where the runs have about the same activations.
double heap_share(const std::vector<Run>& runs) {
  std::vector<std::pair<double, double>> points;  // activations, what is not known of
  double x_mean = 0, y_mean = 0;
  for (const Run& run : runs) {
    if (run.find("step") == nullptr) continue;
    points.emplace_back(number(run, "activation_bytes"), number(run, "program_bytes"));
    x_mean += points.back().first;
    y_mean += points.back().second;
  }
  x_mean /= static_cast<double>(points.size());
  y_mean /= static_cast<double>(points.size());
  double covariance = 0, variance = 0;
  for (const auto& [x, y] : points) {
    covariance += (x - x_mean) * (y - y_mean);
    variance += (x - x_mean) * (x - x_mean);
  }
  constexpr double kDistinct = 0.01;  // of the mean's square
  if (variance < kDistinct * x_mean * x_mean) return 0;
  return std::clamp(covariance / variance, 0.0, 2.0);
}

/// What a step waits for messages on the rank that waits least: the others wait for it, too.
double network_seconds(const Run& run) {
  const auto* waited = run.find("communication", "waited for");
  if (waited == nullptr) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& seconds : waited->seconds_P)
    least = std::min(least, benchmark::estimate(seconds).median);
  return least;
}

/// α from the smallest message, β from the largest, both in the terms of predict.cpp's formulas.
Link measured_link(const Run& run, Link link) {
  const benchmark::RankMeasurement *small = nullptr, *large = nullptr;
  for (const auto& m : run.measurements) {
    if (m.name != "all-to-all") continue;
    if (m.size <= kSmall && small == nullptr) small = &m;
    if (large == nullptr || m.size > large->size) large = &m;
  }
  if (small == nullptr || large == small) return link;
  const double rounds = std::ceil(std::log2(static_cast<double>(run.ranks)));
  link.latency = median_of(*small) / rounds;
  link.bandwidth = large->size / std::max(median_of(*large) - median_of(*small), 1e-9);
  return link;
}

}  // namespace

Cluster calibrated(const Cluster& cluster, const std::vector<Run>& runs, std::int64_t hidden,
                   std::int64_t ranks, std::string& used) {
  std::int64_t count = 0;
  const Run run = pooled(runs, nearest(runs, hidden, ranks), count);
  Cluster c = cluster;
  used = fmt::format("calibrated by {} on {} ranks, hidden size {:.0f}, {} layers",
                     count == 1 ? "a run" : fmt::format("{} runs", count), run.ranks,
                     number(run, "hidden"), number(run, "layers"));
  c.matrix_rate = 0;
  c.matrix_efficiency.points.clear();
  for (const auto& m : run.measurements)
    if (m.name.starts_with("matrices") && m.what.find("bf16") != std::string::npos)
      c.matrix_rate = std::max(c.matrix_rate, m.work_P.front() / median_of(m));
  // The decoder's rate at several sizes of a pack, by its linears' work.
  const double flops = number(run, "flops_per_token");
  for (const auto& m : run.measurements) {
    if (m.name != "decoder") continue;
    const double rate = m.size * flops / median_of(m);
    c.matrix_rate = std::max(c.matrix_rate, rate);
    c.matrix_efficiency.points.emplace_back(m.size, rate);
  }
  for (auto& [tokens, rate] : c.matrix_efficiency.points) rate /= c.matrix_rate;
  c.pack_overhead = new_length_seconds(run);
  // In a step it shares caches and memory with everything else.
  const double llm = mean_phase(run, "LLM forward") + mean_phase(run, "LLM backward");
  const double replicas = static_cast<double>(run.ranks) / static_cast<double>(run.tensor_parallel);
  const double tokens = run.tokens_per_step / replicas;
  if (llm > 0) {
    const double length = run.tokens_per_step / static_cast<double>(run.batch_size);
    const double packs = packs_of(tokens, length, static_cast<double>(run.micro_batch));
    const double expected =
        tokens * flops / (c.matrix_rate * c.matrix_efficiency.at(tokens / packs));
    const double measured = std::max(llm - packs * c.pack_overhead, 0.5 * llm);
    for (auto& [size, share] : c.matrix_efficiency.points) share *= expected / measured;
  }
  double edges_seconds = 0;
  if (const auto* m = run.find("SpMM"); m != nullptr && m->size > 0) {
    edges_seconds = median_of(*m);
    c.edges = m->size / edges_seconds * number(run, "rank") / kReferenceWidth;
  }
  const double prompts = mean_phase(run, "prompts"),
               update = mean_phase(run, "embedding update") + mean_phase(run, "optimizer");
  if (prompts > 0) c.loading = tokens / prompts;
  const double owned_bytes = number(run, "most_owned") * number(run, "embedding_width") * kFp32;
  if (update > 0) {
    c.memory_bandwidth =
        (kPassesOverE * owned_bytes + kDenseAdamBytes * number(run, "dense_parameters")) / update;
    c.memory_efficiency = 1;
  }
  const double step = mean_of(*run.find("step"));
  c.overhead =
      std::max(0.0, step - llm - prompts - update - 2 * number(run, "gnn_layers") * edges_seconds -
                        2 * owned_bytes / c.memory_bandwidth - network_seconds(run));
  c.heap = heap_share(runs);
  c.program =
      std::max(0.0, number(run, "program_bytes") - c.heap * number(run, "activation_bytes"));
  if (run.ranks > 1) {
    const bool several = run.environment.value("hosts", nlohmann::ordered_json::array()).size() > 1;
    Link& link = several ? c.between : c.within;
    link = measured_link(run, link);
  }
  return c;
}

}  // namespace graphlora::plan
