// A progress bar with ETA on long work: redrawn in place on a terminal, else one plain line per
// interval.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace graphlora {

class Progress {
 public:
  /// `first`: work done before (a resumed run); rates count only what comes after. `total` <= 0:
  /// unknown, only count and rate are shown. `enabled` is false on ranks other than 0.
  Progress(std::string label, std::int64_t total, std::string unit, bool enabled = true,
           std::int64_t first = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Sets the work done so far; `note` (for example "loss 0.612") stands behind the ETA.
  void update(std::int64_t done, const std::string& note = {});
  /// Prints the last state and ends the line. Called by the destructor too.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool last);

  std::string label_, unit_, note_;
  std::int64_t total_, done_, first_;
  bool enabled_, terminal_, used_ = false, finished_ = false;
  Clock::time_point start_, drawn_{};
};

}  // namespace graphlora
