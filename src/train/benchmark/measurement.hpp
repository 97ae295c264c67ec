// What one rank timed, and the same of all ranks.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/job.hpp"

namespace graphlora::benchmark {

/// Repetitions of one thing on one rank.
struct Measurement {
  std::string name;  ///< "matrices forward", "all-reduce", "step", …
  std::string what;  ///< which: "qkv 960x576 bf16, 1024 tokens", "8 bytes", a phase; may be empty
  std::string unit;  ///< of the work: "FLOP", "bytes", "edges", "tokens"; empty: there is none
  double size = 0;   ///< the place on a curve: tokens of a product, bytes of a message
  double work = 0;   ///< of one repetition on this rank; of a step: of all ranks
  std::vector<double> seconds = {};
};

/// One of all ranks: work and seconds by rank.
struct RankMeasurement {
  std::string name, what, unit;
  double size = 0;
  std::vector<double> work_P = {};
  std::vector<std::vector<double>> seconds_P = {};

  /// Of each repetition, the slowest rank's.
  std::vector<double> slowest() const;
};

/// All ranks' measurements, which are the same in number, order and repetitions. Collective.
std::vector<RankMeasurement> gather(Communicator& world, const std::vector<Measurement>& own);

/// How often things are run.
struct Repetitions {
  int warm_up = 0, count = 0;
};

/// Seconds of a call of `once` on this rank, all ranks at the same time: with all that a first call
/// makes, where nothing has called it. Collective.
double time_once(Job& job, const std::function<void()>& once, int times = 1);

/// Times `once` on all ranks at the same time, each repetition behind a barrier. What is over in
/// less than a millisecond runs many times in each repetition, and its mean counts. `once` may be
/// collective. Collective.
std::vector<double> time_of(Job& job, const Repetitions& repetitions,
                            const std::function<void()>& once);

/// Waits for what was queued on the job's device.
void synchronize(at::Device device);

}  // namespace graphlora::benchmark
