// When each rank was in which phase: a file for chrome://tracing and ui.perfetto.dev.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dist/communicator.hpp"

namespace graphlora {

/// Seconds spent so far in each phase of a step, by name; with `record` every span as well.
class Phases {
 public:
  using Clock = std::chrono::steady_clock;

  /// The phases to come, in the order in which they are shown.
  explicit Phases(std::vector<std::string> names);
  const std::vector<std::pair<std::string, double>>& seconds() const { return seconds_; }
  /// From now on spans are kept, with times since this call. Ranks that call it behind a barrier
  /// have about the same zero.
  void record();
  void add(const char* name, Clock::time_point begin, Clock::time_point end);
  void set_step(std::int64_t step) { step_ = step; }

  /// The spans of all ranks as Chrome's trace events (JSON), a process for each rank. Collective;
  /// on rank 0, empty elsewhere.
  std::string trace(Communicator& world) const;

 private:
  struct Span {
    std::size_t phase;
    std::int64_t step;
    double begin, end;  // microseconds
  };
  std::vector<std::pair<std::string, double>> seconds_;
  bool records_ = false;
  Clock::time_point zero_;
  std::int64_t step_ = 0;
  std::vector<Span> spans_;
};

}  // namespace graphlora
