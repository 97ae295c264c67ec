// The training step, as the trainer runs it.
#pragma once
#include <vector>

#include "train/benchmark/measurement.hpp"
#include "train/trainer.hpp"

namespace graphlora::benchmark {

/// What the steps left beside their times.
struct StepsRun {
  std::vector<Measurement> measurements;
  std::int64_t tokens = 0, examples = 0;  ///< of all measured steps, all ranks
  double token_imbalance = 1;             ///< the worst step's
};

/// Runs `stepper` over warm-up and repetitions, one step each: "step" (work: tokens of all ranks),
/// "phase" by name, "communication" (all of it, and what the step waits for). Throws DataError
/// where training diverges. Collective.
StepsRun measure_steps(Job& job, const Repetitions& repetitions, Recommender& model,
                       Stepper& stepper);

}  // namespace graphlora::benchmark
