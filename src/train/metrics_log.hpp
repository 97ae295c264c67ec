// metrics.jsonl: a line a step and a line an evaluation.
#pragma once
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "train/checkpoint.hpp"

namespace graphlora {

/// Of rank 0. Lines that can't be written (disk full) are kept and tried again with the next one.
class MetricsLog {
 public:
  /// Goes on from `state`: later lines, which the run writes again, are dropped, and so is what a
  /// killed run left of a line. At step 0 the file starts empty. Throws DataError, also where it
  /// was not a run's.
  MetricsLog(const std::filesystem::path& path, const TrainingState& state);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  /// The first failure of several is a warning.
  void write(const nlohmann::ordered_json& line);
  /// Brings all lines to the disk, also those that could not be written before: a step is not
  /// published without the lines that belong to it. Throws DataError. For any thread.
  void sync();
  /// Throws DataError if lines are missing in the file.
  void require_complete();

 private:
  void flush();

  std::filesystem::path path_;
  int file_ = -1;
  std::mutex mutex_;       // of what follows
  std::int64_t size_ = 0;  // of the whole lines
  std::string pending_, cause_;
};

}  // namespace graphlora
