// Ends a rank that waits for ever. One thread, which calls neither MPI nor NCCL.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dist/flight_recorder.hpp"
#include "dist/signs_of_life.hpp"

namespace graphlora {

/// Looks at what the rank waits for. Some time before an operation has lasted for `limit` it asks
/// the other ranks for a sign of life, through files in `directory`, which all ranks see. When the
/// limit is over it writes the rank's recording there, prints one line that names the operation and
/// the ranks it is for, and ends the process with exit code 4; the launcher ends the others. A rank
/// is not waited for any longer if it gives no sign, or if it neither communicates nor uses the
/// processor for as long as the limit. Nobody is waited for any longer if all ranks wait for one
/// another. A rank that computes or reads is waited for as long as it takes.
///
/// While a rank asks, each writes its own sign; rank 0 reads all of them and writes a table, which
/// the others read: what is read grows with the ranks, not with their square. A rank is only judged
/// by its own sign, though, which whoever judges reads then: the table may be late, and rank 0 may
/// be the one that hangs.
///
/// Files: those of SignsOfLife, RUN being the job's number (Place::run, 0 before the ranks have
/// agreed on it): several jobs may share a directory; `rank-00000.json` a rank's recording. Nothing
/// is written, and no directory made, unless an operation takes long.
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

  void stop();
  void watch();
  /// Ends the process if `watch` itself hangs, in a file system for example.
  void watch_the_watcher();
  void tick();
  void note_work(const FlightRecorder::Wait& wait);
  void answer();
  void give_sign();
  Signs gather();
  void ask();
  void withdraw();
  void retract();
  void look(Signs signs, std::chrono::milliseconds until_judged);
  void judge(const FlightRecorder::Wait& wait);
  [[noreturn]] void end(const FlightRecorder::Wait& wait, const std::string& verdict);
  void record(const std::string& reason, const std::string& message);
  Sign own_sign() const;
  Signs read_signs();
  std::string name_of(int rank) const;
  std::string names_of(const std::vector<int>& ranks) const;
  std::string waited_text(const FlightRecorder::Wait& wait) const;

  std::shared_ptr<FlightRecorder> recorder_;
  std::chrono::milliseconds limit_, ask_after_, tick_;
  std::filesystem::path directory_;

  // Of the thread that watches.
  SignsOfLife files_;
  bool asking_ = false, answered_ = false, recorded_ = false;
  FlightRecorder::Id warned_ = 0;
  Signs before_;  // when it looked last: as it asked, or judged
  Clock::time_point looked_at_, judge_at_, answered_at_, gathered_at_;
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
