// One run: the step and its parts on the ranks of this job.
#pragma once
#include <filesystem>
#include <string>

#include "train/benchmark/summary.hpp"
#include "train/trainer.hpp"

namespace graphlora::benchmark {

struct RunOptions {
  bool micro = true, macro = true;
  Repetitions repetitions;
  std::filesystem::path model_directory;
  std::filesystem::path scratch;  ///< where the checkpoint that is timed is written, and removed
  std::string version;            ///< see environment()
};

/// Measures `model` as `train` would run it with `config`. All but settings and series are filled
/// in on rank 0. Collective; errors are agreed.
Run measure_run(Job& job, Recommender& model, const TrainConfig& config, const RunOptions& options);

}  // namespace graphlora::benchmark
