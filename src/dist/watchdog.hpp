// Ends a rank that waits for ever. One thread, which calls neither MPI nor NCCL.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dist/flight_recorder.hpp"

namespace graphlora {

/// Looks at what the rank waits for. Some time before an operation has lasted for `limit` it asks
/// the other ranks for a sign of life, through files in `directory`, which all ranks see. When the
/// limit is over it writes the rank's recording there, prints one line that names the operation and
/// the ranks it is for, and ends the process with exit code 4; the launcher ends the others. A rank
/// is not waited for any longer if it gives no sign, or if it neither communicates nor uses the
/// processor for as long as the limit. Nobody is waited for any longer if all ranks wait for one
/// another. A rank that computes or reads is waited for as long as it takes.
///
/// Files: `asked-RUN` while a rank asks; `alive-RUN-00000` the sign of a rank, RUN being the job's
/// number (Place::run, 0 before the ranks have agreed on it): several jobs may share a directory;
/// `rank-00000.json` its recording. Nothing is written, and no directory made, unless an operation
/// takes long.
class Watchdog {
 public:
  /// Throws Error where the system has no more threads.
  Watchdog(std::shared_ptr<FlightRecorder> recorder, std::chrono::milliseconds limit,
           std::filesystem::path directory);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  std::chrono::milliseconds limit() const { return limit_; }
  const std::filesystem::path& directory() const { return directory_; }

 private:
  using Clock = std::chrono::steady_clock;

  /// A rank's sign of life.
  struct Sign {
    std::uint64_t beat = 0;  // greater in each sign
    double waits = 0;        // seconds in the present operation; 0: in none
    double idle = 0;         // seconds without operation and without computing
    std::string doing;       // the present operation, or the last one
  };
  using Signs = std::map<int, Sign>;

  void stop();
  void watch();
  /// Ends the process if `watch` itself hangs, in a file system for example.
  void watch_the_watcher();
  void tick();
  void note_work(const FlightRecorder::Wait& wait);
  void answer();
  void ask();
  void withdraw();
  void look(Signs signs, std::chrono::milliseconds until_judged);
  void judge(const FlightRecorder::Wait& wait);
  [[noreturn]] void end(const FlightRecorder::Wait& wait, const std::string& verdict);
  void record(const std::string& reason, const std::string& message);
  Sign own_sign() const;
  Signs read_signs();
  std::string name_of(int rank) const;
  std::string names_of(const std::vector<int>& ranks) const;
  std::string waited_text(const FlightRecorder::Wait& wait) const;
  std::filesystem::path asked_file() const;
  std::filesystem::path sign_file(int rank) const;

  std::shared_ptr<FlightRecorder> recorder_;
  std::chrono::milliseconds limit_, ask_after_, tick_;
  std::filesystem::path directory_;
  std::int64_t run_ = 0;

  // Of the thread that watches.
  bool asking_ = false, answered_ = false, recorded_ = false;
  FlightRecorder::Id warned_ = 0;
  Signs before_;  // when it looked last: as it asked, or judged
  Clock::time_point looked_at_, judge_at_, answered_at_;
  std::uint64_t beat_ = 0, progress_ = 0;
  Clock::time_point worked_ = Clock::now();  // the last time that this rank was seen to work
  double processor_seconds_ = 0;
  std::string trouble_;  // why the files don't serve; empty: they do

  std::atomic<std::int64_t> ticked_;  // steady_now() of the last tick
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_, second_thread_;
};

}  // namespace graphlora
