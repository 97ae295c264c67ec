#include "dist/job.hpp"

#include <c10/util/Exception.h>
#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "core/log.hpp"

namespace graphlora {
namespace {

volatile std::sig_atomic_t interrupt_flag = 0;
volatile std::sig_atomic_t announces = 0;

extern "C" void on_signal(int signal) {
  interrupt_flag = 1;
  if (announces == 0 || signal == SIGUSR1) return;
  constexpr std::string_view kText =
      "\nStopping at the next safe point; a second signal ends the program at once.\n";
  // The result is of no use here: the flag is set either way.
  if (::write(STDERR_FILENO, kText.data(), kText.size()) < 0) return;
}

void catch_signal(int signal, int flags) {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

/// Set for the ranks of a job by Open MPI's mpirun, by Slurm's srun and by PMIx launchers.
constexpr std::array kLaunchers{"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_ID", "PMIX_RANK", "PMI_RANK"};

/// Whether a launcher that kills the ranks on SIGTERM started this process: mpirun of Open MPI,
/// MPICH (Hydra), MVAPICH.
bool under_mpirun() {
  constexpr std::array kMarks{"OMPI_COMM_WORLD_SIZE", "HYDI_CONTROL_FD", "MV2_COMM_WORLD_SIZE"};
  return std::any_of(kMarks.begin(), kMarks.end(),
                     [](const char* mark) { return std::getenv(mark) != nullptr; });
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

struct Failure {
  ExitCode code = ExitCode::ok;
  std::string cause;
};

/// What the exception in flight means. LibTorch's errors lose their backtrace.
Failure current_failure() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::internal, "out of memory"};
  } catch (const std::system_error& error) {
    return {ExitCode::data, error.what()};  // file systems, and streams that can't be written
  } catch (const nlohmann::json::exception& error) {
    return {ExitCode::data, error.what()};
  } catch (const c10::Error& error) {
    return {ExitCode::internal, error.what_without_backtrace()};
  } catch (const std::exception& error) {
    return {ExitCode::internal, error.what()};
  } catch (...) {
    return {ExitCode::internal, "an unknown exception"};
  }
}

/// One line on the terminal, whatever a hostile file put into the message.
void print_error(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", text);
  std::fflush(stderr);
}

}  // namespace

Job::Job(int* argc, char*** argv) {
  // Read before MPI starts, which may set such variables itself.
  mpirun_ = under_mpirun();
  // Alone, Open MPI would start a daemon, only to be able to spawn more processes.
  if (std::none_of(kLaunchers.begin(), kLaunchers.end(),
                   [](const char* mark) { return std::getenv(mark) != nullptr; }))
    setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
  int provided = 0;
  const int status = MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided);
  if (status != MPI_SUCCESS) throw CommError("MPI_Init_thread failed with code {}", status);
  if (provided < MPI_THREAD_SERIALIZED) {
    throw CommError(
        "this MPI library has no thread support (level {}, MPI_THREAD_SERIALIZED is needed)",
        provided);
  }
  owns_mpi_ = true;
  world_ = make_mpi_world();
  log::init(world_->rank(), world_->size());
}

Job::Job(std::shared_ptr<Communicator> world) : world_(std::move(world)) {}

Job::~Job() {
  if (!owns_mpi_) return;
  if (std::uncaught_exceptions() > 0 && world_->size() > 1)
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::internal));
  world_.reset();
  MPI_Finalize();
}

int Job::run(const std::function<void()>& body) {
  Failure failure;
  try {
    body();
    return static_cast<int>(ExitCode::ok);
  } catch (const AgreedError& error) {
    return static_cast<int>(error.code());
  } catch (...) {
    failure = current_failure();
  }
  const int code = static_cast<int>(failure.code);
  const std::string step = step_ < 0 ? "" : fmt::format(", step {}", step_);
  if (world_->size() == 1) {
    print_error(failure.cause + (step_ < 0 ? "" : fmt::format(" (step {})", step_)));
    return code;
  }
  print_error(fmt::format("rank {} on {}{}: {}", world_->rank(), host_name(), step, failure.cause));
  MPI_Abort(MPI_COMM_WORLD, code);
  return code;
}

void Job::agree(const std::function<void()>& body) {
  Failure failure;
  try {
    body();
  } catch (const AgreedError&) {
    throw;  // by a nested agree: every rank is here
  } catch (const CommError&) {
    throw;  // with broken communication there is no agreement
  } catch (...) {
    failure = current_failure();
  }
  const int size = world_->size();
  const at::Tensor first =
      at::full({1}, failure.code == ExitCode::ok ? size : world_->rank(), at::kLong);
  world_->all_reduce(first, ReduceOp::min, Traffic::control).wait();
  const int failed = static_cast<int>(first.item<std::int64_t>());
  if (failed == size) return;

  if (failed != 0 && world_->rank() == failed)
    failure.cause = fmt::format("{} (rank {} on {})", failure.cause, failed, host_name());
  const at::Tensor code = at::full({1}, static_cast<std::int64_t>(failure.code), at::kLong);
  world_->broadcast(code, failed, Traffic::control).wait();
  failure.code = static_cast<ExitCode>(code.item<std::int64_t>());
  failure.cause = world_->broadcast_text(failure.cause, failed, Traffic::control);
  if (world_->rank() == 0) print_error(failure.cause);
  throw AgreedError(failure.code, failure.cause);
}

void Job::catch_signals() const {
  announces = world_->rank() == 0 ? 1 : 0;
  catch_signal(SIGUSR1, SA_RESTART);
  if (mpirun_) return;
  catch_signal(SIGTERM, SA_RESTART | SA_RESETHAND);
  catch_signal(SIGINT, SA_RESTART | SA_RESETHAND);
}

bool Job::interrupted() { return interrupt_flag != 0; }

int default_threads(Communicator& world) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const bool known = sched_getaffinity(0, sizeof(mask), &mask) == 0;
  const std::string key =
      host_name() + std::string(reinterpret_cast<const char*>(&mask), sizeof(mask));
  const auto hash = static_cast<std::int64_t>(std::hash<std::string>{}(key) >> 1U);
  const std::vector<std::int64_t> all = world.all_gather(hash, Traffic::control);
  const auto sharing = static_cast<int>(std::count(all.begin(), all.end(), hash));

  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    int threads = 0;
    const std::string_view view = text;
    const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), threads);
    if (error == std::errc{} && end == view.data() + view.size() && threads > 0) return threads;
  }
  return std::max(1, (known ? CPU_COUNT(&mask) : 1) / sharing);
}

}  // namespace graphlora
