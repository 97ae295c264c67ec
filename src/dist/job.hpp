// Life of an MPI job: start, agreement on errors, signals, and an end that takes every rank along.
#pragma once
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>

#include "core/error.hpp"
#include "dist/communicator.hpp"

namespace graphlora {

class Watchdog;

/// How a job of several ranks guards itself.
struct JobGuard {
  /// How long a rank waits in one operation, before that is a hang; zero: for ever.
  std::chrono::seconds timeout{0};
  /// Where flight recordings go: a directory that all ranks see. Empty: nowhere.
  std::filesystem::path recordings = {};
  /// Whether ranks compare what they are about to do before each operation.
  bool debug = false;
};

/// Owns MPI_Init/MPI_Finalize (thread level SERIALIZED, MPI_ERRORS_RETURN) and the signal flag.
/// Three kinds of failure: agreed (agree()), alone (run() prints rank, host, step, cause, then
/// MPI_Abort), hang (the watchdog, from before MPI starts until it has ended). docs/reliability.md
/// tells of them.
class Job {
 public:
  Job(int* argc, char*** argv, JobGuard guard = {});
  /// A job over some ranks of an MPI that another Job has started: how tests set what P ranks
  /// compute against what one does.
  explicit Job(std::shared_ptr<Communicator> world, at::Device device = at::kCPU);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  std::shared_ptr<Communicator> world() const { return world_; }

  /// This rank's number among the ranks of its host, from 0.
  int local_rank() const { return local_rank_; }
  /// Where this rank computes: the CPU until use_device() has chosen another.
  at::Device device() const { return device_; }

  /// Chooses by --device (auto, cpu, cuda) and --comm (auto, nccl, mpi) what this rank computes on,
  /// and makes it the current device, and what ranks talk over: with NCCL, world() is another
  /// communicator from here on. auto is cuda where every rank has a GPU, and nccl where each has
  /// one of its own. Collective. What can't be had is a ConfigError, agreed on.
  void use_device(const std::string& device, const std::string& comm);

  /// Runs `body` and turns what it throws into an exit code. An Error on one rank of several ends
  /// the whole job at once with that rank's own message. Returns the process' exit code.
  int run(const std::function<void()>& body);

  /// For a catch block: a failure of this rank of several alone is told, and ends the job, at once,
  /// before anything is waited for while the stack unwinds. Any other failure returns. Local.
  void end_if_alone();

  /// Runs `body` on every rank; if it throws anywhere, every rank throws AgreedError, and rank 0
  /// has printed the message once (that of the lowest failing rank). `body` should be local: a rank
  /// that fails before one of its collectives leaves the others waiting. CommError passes as it is,
  /// and so ends the job in run(). Collective.
  void agree(const std::function<void()>& body);

  /// The step that error messages name; set by the training loop.
  void set_step(std::int64_t step);

  /// From now on SIGUSR1 (and, without mpirun, SIGTERM and SIGINT; a second one of these ends the
  /// process) only sets the flag of interrupted(). For commands that ask for it; the others are
  /// ended by these signals.
  void catch_signals() const;

  /// A signal of catch_signals() was received. Local: the trainer reduces it over ranks with the
  /// step's other scalars, so that all stop at the same step.
  static bool interrupted();

 private:
  void find_place();
  std::shared_ptr<Communicator> guarded(std::shared_ptr<Communicator> world);
  void write_recording(const char* reason, const std::string& message) const;

  JobGuard guard_;
  std::shared_ptr<FlightRecorder> recorder_;
  std::shared_ptr<FlightAxis> life_;  // of the job: its start and end
  std::unique_ptr<Watchdog> watchdog_;
  std::shared_ptr<Communicator> mpi_world_, world_;
  bool owns_mpi_ = false;
  bool mpirun_ = false;  // a launcher that kills the ranks on SIGTERM started this process
  std::int64_t step_ = -1;
  int local_rank_ = 0;
  at::Device device_ = at::kCPU;
};

/// Threads for this rank: OMP_NUM_THREADS where set, else the cores of the affinity mask divided by
/// the ranks on this host that share it. Collective.
int default_threads(Communicator& world);

/// MPI's world communicator, wrapped; only Job and tests use it. MPI must be initialized.
/// `max_count`: elements (of messages: bytes) per MPI call, more is cut into pieces; tests lower
/// it. `recorder`: where operations are noted; null: in one of its own.
std::shared_ptr<Communicator> make_mpi_world(std::int64_t max_count = std::int64_t{1} << 30,
                                             std::shared_ptr<FlightRecorder> recorder = nullptr);

}  // namespace graphlora
