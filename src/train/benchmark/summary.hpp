// Runs of a scaling study and what they say together.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/benchmark/measurement.hpp"
#include "train/benchmark/statistics.hpp"

namespace graphlora::benchmark {

/// What a set of runs at several rank counts keeps the same. strong: the batch; fixed: the batch
/// and the cut of the graph; weak: the batch of a rank.
inline const std::vector<std::string> kSeries{"strong", "fixed", "weak"};

/// One run at one number of ranks.
struct Run {
  std::vector<std::string> series;  ///< that it belongs to; empty: none
  std::int64_t ranks = 1, tensor_parallel = 1, batch_size = 0, micro_batch = 0;
  std::int64_t threads = 1;  ///< of a rank
  std::string shared;        ///< see what_is_shared
  double tokens_per_step = 0, token_imbalance = 1;
  std::vector<std::int64_t> memory_P = {};  ///< bytes that each rank's steps held at most
  nlohmann::ordered_json setting = {};      ///< options, fingerprints, sizes
  nlohmann::ordered_json environment = {};
  std::vector<RankMeasurement> measurements = {};

  /// The one of that name and kind; null: there is none.
  const RankMeasurement* find(const std::string& name, const std::string& what = {}) const;
  bool in(const std::string& name) const;
};

/// One number of ranks in a series, against the first.
struct Scaled {
  std::string series;
  const Run* run = nullptr;
  Estimate step;  ///< seconds, the slowest rank's
  double tokens_per_s = 0;
  double speedup = 1;     ///< of tokens per second
  double efficiency = 1;  ///< speedup over the growth of ranks
  double ideal = 0;       ///< seconds, had the first run's efficiency been kept
};

/// Runs of each series by ranks; those without steps, or of no series, don't count.
std::vector<Scaled> scaling_of(const std::vector<Run>& runs);

/// How a series grows, in a sentence.
std::string growth_rule(const std::string& series);

nlohmann::ordered_json to_json(const Run& run);
/// Throws DataError naming `where`.
Run run_from_json(const nlohmann::json& json, const std::string& where);

/// The runs in DIR/summary.json. Throws DataError.
std::vector<Run> read_runs(const std::filesystem::path& directory);

/// Writes results.csv, report.html and, last, summary.json into a directory that is there. `plan`:
/// what `graphlora plan --json` wrote, or null. Throws DataError.
void write_study(const std::filesystem::path& directory, const std::vector<Run>& runs,
                 const nlohmann::json& plan);

}  // namespace graphlora::benchmark
