// One run at a time in an output directory.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace graphlora {

/// DIRECTORY/lock, which says who works there: host, process and its start, Slurm job. Its holder
/// writes a growing number into it (docs/adr/0008). Removed at the end.
class RunLock {
 public:
  struct Times {
    double beat = 5;    ///< seconds between two heartbeats
    double stale = 30;  ///< without a heartbeat for so long, another machine's lock is left over
  };
  /// Makes the directory and takes the lock. A lock of a process that is gone (of this machine, or
  /// of this Slurm job before it was requeued) is replaced at once, any other only when no
  /// heartbeat comes for `times.stale` seconds, for which this waits. Throws ConfigError naming the
  /// holder where a run works there; DataError where nothing can be written.
  explicit RunLock(const std::filesystem::path& directory) : RunLock(directory, Times{}) {}
  RunLock(const std::filesystem::path& directory, Times times);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Throws DataError if the lock is no longer this object's: another run has taken the directory,
  /// because this process stood still for too long. For any thread.
  void check() const;

 private:
  void acquire();
  void take_over(const std::string& seen) const;
  void beat();

  std::filesystem::path path_;
  Times times_;
  std::string token_;                                   // what tells this lock from any other
  std::vector<std::filesystem::path> new_directories_;  // innermost first
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread heart_;
};

/// What a lock says of this process, for tests and RunLock: "boot", "process", "started", "host",
/// and where there are such "slurm_job", "slurm_restart".
nlohmann::json describe_process();

}  // namespace graphlora
