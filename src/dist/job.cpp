#include "dist/job.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <fmt/ranges.h>
#include <mpi.h>
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

#include "core/file.hpp"
#include "core/log.hpp"
#include "core/memory.hpp"
#include "dist/checked_communicator.hpp"
#include "dist/device.hpp"
#include "dist/flight_recorder.hpp"
#include "dist/host_name.hpp"
#include "dist/nccl_communicator.hpp"
#include "dist/place.hpp"
#include "dist/rank_map.hpp"
#include "dist/watchdog.hpp"

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

/// The first of these variables that holds a number; `otherwise` if none does.
int number_of(std::initializer_list<const char*> variables, int otherwise) {
  for (const char* variable : variables) {
    const char* text = std::getenv(variable);
    if (text == nullptr) continue;
    int number = 0;
    const std::string_view view = text;
    const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), number);
    if (error == std::errc{} && end == view.data() + view.size() && number >= 0) return number;
  }
  return otherwise;
}

/// What launchers say of this process, until MPI does.
FlightRecorder::Place launched_place() {
  FlightRecorder::Place place;
  place.rank = number_of({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}, 0);
  place.ranks = number_of({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 1);
  return place;
}

/// A thread of its own, blocked in a call that needs the other ranks.
template <class Call>
auto blocked(FlightRecorder& recorder, FlightAxis& axis, const char* name, Call call) {
  const FlightRecorder::Id noted =
      recorder.issue(name, traffic_name(Traffic::control), axis, /*bytes=*/0);
  const FlightRecorder::Waiting waiting(recorder, noted);
  const auto result = call();
  recorder.complete(noted);
  return result;
}

struct Failure {
  ExitCode code = ExitCode::ok;
  std::string cause;
  bool of_one_rank = false;  ///< by its nature: a wrong file is found by all
};

/// `allocator`: what the allocator says; may be empty.
std::string out_of_memory(const std::string& allocator) {
  return fmt::format(
      "out of memory{}; this rank had {:.2f} GiB at most; give each rank more memory, or run fewer "
      "ranks on a host; training takes less with a lower --micro-batch, --recompute layer, "
      "--precision bf16 or more ranks (docs/memory.md)",
      allocator.empty() ? "" : fmt::format(" ({})", allocator),
      static_cast<double>(peak_memory_bytes()) / (1 << 30));
}

/// What the allocators of LibTorch have to say, if it is they who failed.
std::optional<std::string> allocator_failure(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return text;
  constexpr std::string_view kOfCpu = "DefaultCPUAllocator: ";
  const std::size_t at = text.find(kOfCpu);
  if (at == std::string::npos) return std::nullopt;
  return text.substr(at + kOfCpu.size());
}

/// What the exception in flight means. LibTorch's errors lose their backtrace.
Failure current_failure() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::internal, out_of_memory(""), true};
  } catch (const std::system_error& error) {
    return {ExitCode::data, error.what()};  // file systems, and streams that can't be written
  } catch (const nlohmann::json::exception& error) {
    return {ExitCode::data, error.what()};
  } catch (const c10::Error& error) {
    if (const auto failed = allocator_failure(error))
      return {ExitCode::internal, out_of_memory(*failed), true};
    return {ExitCode::internal, error.what_without_backtrace()};
  } catch (const std::exception& error) {
    return {ExitCode::internal, error.what()};
  } catch (...) {
    return {ExitCode::internal, "an unknown exception"};
  }
}

/// This process' number among those of its host. Collective over MPI_COMM_WORLD.
int rank_on_host() {
  MPI_Comm host = MPI_COMM_NULL;
  int rank = 0;
  const int status =
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  if (status != MPI_SUCCESS) throw CommError("the ranks of a host can't be told (code {})", status);
  MPI_Comm_rank(host, &rank);
  MPI_Comm_free(&host);
  return rank;
}

/// Two ranks that compute on one GPU, if there are any.
struct Sharing {
  int first = -1, second = -1;
  std::size_t gpus = 0;  // of all ranks
};

/// Collective.
Sharing find_sharing(Communicator& world, const std::array<std::int64_t, 2>& own) {
  const at::Tensor uuids =
      world.all_gather_varying(at::tensor({own[0], own[1]}).unsqueeze(0), Traffic::control).first;
  const auto* data = uuids.const_data_ptr<std::int64_t>();
  std::map<std::pair<std::int64_t, std::int64_t>, int> rank_of;
  Sharing sharing;
  for (int rank = 0; rank < world.size(); ++rank) {
    const auto [found, is_new] = rank_of.try_emplace({data[2 * rank], data[2 * rank + 1]}, rank);
    if (!is_new && sharing.first < 0) sharing = {found->second, rank};
  }
  sharing.gpus = rank_of.size();
  return sharing;
}

/// NCCL takes several ranks on one GPU from this version on, where this variable allows it.
constexpr int kMultiRankNccl = 23000;
constexpr const char* kMultiRankVariable = "NCCL_MULTI_RANK_GPU_ENABLE";

/// Why NCCL can't serve these ranks; empty where it can.
std::string why_not_nccl(const Sharing& sharing) {
  if (std::string reason = why_no_nccl(); !reason.empty() || sharing.first < 0) return reason;
  const char* variable = std::getenv(kMultiRankVariable);
  const int version = nccl_version();
  if (version >= kMultiRankNccl && variable != nullptr && std::string_view(variable) == "1")
    return "";
  return fmt::format(
      "ranks {} and {} share a GPU: give each its own or use --comm mpi (NCCL 2.30 and later can "
      "with {}=1, this one is {}.{})",
      sharing.first, sharing.second, kMultiRankVariable, version / 10000, version / 100 % 100);
}

/// One line on the terminal, whatever a hostile file put into the message.
void print_error(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  std::fflush(stdout);
  log::print(fmt::format("error: {}\n", text));
}

}  // namespace

Job::Job(int* argc, char*** argv, JobGuard guard)
    : guard_(std::move(guard)),
      recorder_(std::make_shared<FlightRecorder>()),
      life_(recorder_->add_axis("job", {})) {
  // Read before MPI starts, which may set such variables itself.
  mpirun_ = under_mpirun();
  const bool launched = std::any_of(kLaunchers.begin(), kLaunchers.end(),
                                    [](const char* mark) { return std::getenv(mark) != nullptr; });
  recorder_->set_place(launched_place());
  if (launched && guard_.timeout.count() > 0)
    watchdog_ = std::make_unique<Watchdog>(recorder_, guard_.timeout, guard_.recordings);
  // Alone, Open MPI would start a daemon, only to be able to spawn more processes, and look for
  // network cards for 0.2 s.
  if (!launched) {
    setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
    setenv("OMPI_MCA_pml", "ob1", /*overwrite=*/0);
    setenv("OMPI_MCA_btl", "self", /*overwrite=*/0);
  }
  int provided = 0;
  const int status = blocked(*recorder_, *life_, "start of MPI", [&] {
    return MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided);
  });
  if (status != MPI_SUCCESS) throw CommError("MPI_Init_thread failed with code {}", status);
  if (provided < MPI_THREAD_SERIALIZED) {
    throw CommError(
        "this MPI library has no thread support (level {}, MPI_THREAD_SERIALIZED is needed)",
        provided);
  }
  owns_mpi_ = true;
  mpi_world_ = blocked(*recorder_, *life_, "start of the job",
                       [&] { return make_mpi_world(std::int64_t{1} << 30, recorder_); });
  local_rank_ = blocked(*recorder_, *life_, "start of the job", rank_on_host);
  log::init(mpi_world_->rank(), mpi_world_->size());
  find_place();
  if (mpi_world_->size() == 1) watchdog_.reset();
  world_ = guarded(mpi_world_);
}

Job::Job(std::shared_ptr<Communicator> world, at::Device device)
    : recorder_(world->recorder()), mpi_world_(world), world_(std::move(world)), device_(device) {}

Job::~Job() {
  if (!owns_mpi_) return;
  if (std::uncaught_exceptions() > 0 && world_->size() > 1)
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::internal));
  world_.reset();
  mpi_world_.reset();
  blocked(*recorder_, *life_, "end of MPI", MPI_Finalize);
}

/// Tells the recorder who this rank is among which others, and when the job started. Collective.
void Job::find_place() {
  constexpr std::size_t kHostLength = 64;
  FlightRecorder::Place place;
  place.rank = mpi_world_->rank();
  place.ranks = mpi_world_->size();
  place.run = std::chrono::duration_cast<std::chrono::microseconds>(
                  std::chrono::system_clock::now().time_since_epoch())
                  .count();
  const at::Tensor run = at::full({1}, place.run, at::kLong);
  mpi_world_->broadcast(run, 0, Traffic::control).wait();
  place.run = run.item<std::int64_t>();
  const at::Tensor own = at::zeros({1, kHostLength}, at::kByte);
  const std::string host = host_name().substr(0, kHostLength - 1);
  std::copy(host.begin(), host.end(), static_cast<char*>(own.mutable_data_ptr()));
  const at::Tensor all = at::empty({place.ranks, kHostLength}, at::kByte);
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(place.ranks), 1);
  mpi_world_->all_gather_rows(own, all, ones, Traffic::control).wait();
  const auto* names = static_cast<const char*>(all.const_data_ptr());
  for (int rank = 0; rank < place.ranks; ++rank)
    place.hosts.emplace_back(names + static_cast<std::size_t>(rank) * kHostLength);
  recorder_->set_place(std::move(place));
}

/// The communicator as the job uses it. Collective.
std::shared_ptr<Communicator> Job::guarded(std::shared_ptr<Communicator> world) {
  if (!guard_.debug || world->size() == 1) return world;
  std::shared_ptr<Communicator> apart = mpi_world_->split(0, mpi_world_->rank());
  apart->name_axis("check of world");
  return make_checked_communicator(std::move(world), std::move(apart));
}

void Job::set_step(std::int64_t step) {
  step_ = step;
  if (recorder_) recorder_->set_step(step);
}

/// What this rank did last, for whoever looks for the cause; of a single rank that says nothing.
void Job::write_recording(const char* reason, const std::string& message) const {
  if (guard_.recordings.empty() || world_->size() == 1) return;
  const std::filesystem::path path = guard_.recordings / flight_file_name(recorder_->place()->rank);
  try {
    make_directories(guard_.recordings);
    write_file(path, recorder_->to_json(reason, message)
                             .dump(1, ' ', false, nlohmann::json::error_handler_t::replace) +
                         "\n");
    log::print(
        fmt::format("note: what this rank did last is in {} (graphlora inspect)\n", path.string()));
  } catch (const std::exception&) {  // NOLINT: the failure itself is what must be told
  }
}

int Job::run(const std::function<void()>& body) {
  try {
    body();
    return static_cast<int>(ExitCode::ok);
  } catch (const AgreedError& error) {
    if (step_ >= 0) write_recording("agreed", error.what());
    return static_cast<int>(error.code());
  } catch (...) {
    end_if_alone();
    const Failure failure = current_failure();
    print_error(failure.cause + (step_ < 0 ? "" : fmt::format(" (step {})", step_)));
    return static_cast<int>(failure.code);
  }
}

void Job::end_if_alone() {
  if (world_->size() == 1) return;
  Failure failure;
  try {
    throw;
  } catch (const AgreedError&) {
    return;
  } catch (...) {
    failure = current_failure();
  }
  const int code = static_cast<int>(failure.code);
  const std::string step = step_ < 0 ? "" : fmt::format(", step {}", step_);
  print_error(fmt::format("rank {} on {}{}: {}", world_->rank(), host_name(), step, failure.cause));
  write_recording("alone", failure.cause);
  if (life_)
    blocked(*recorder_, *life_, "abort", [&] { return MPI_Abort(MPI_COMM_WORLD, code); });
  else
    MPI_Abort(MPI_COMM_WORLD, code);
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

  if (world_->rank() == failed && size > 1 && (failed != 0 || failure.of_one_rank))
    failure.cause = fmt::format("{} (rank {} on {})", failure.cause, failed, host_name());
  const at::Tensor code = at::full({1}, static_cast<std::int64_t>(failure.code), at::kLong);
  world_->broadcast(code, failed, Traffic::control).wait();
  failure.code = static_cast<ExitCode>(code.item<std::int64_t>());
  failure.cause = world_->broadcast_text(failure.cause, failed, Traffic::control);
  if (world_->rank() == 0) print_error(failure.cause);
  throw AgreedError(failure.code, failure.cause);
}

void Job::use_device(const std::string& device, const std::string& comm) {
  const std::string missing = device == "cpu" ? "--device is cpu" : why_no_cuda();
  agree([&] {
    if (device == "cuda" && !missing.empty()) throw ConfigError("--device cuda: {}", missing);
  });
  std::int64_t with_gpu = 0;
  for (const std::int64_t has : world_->all_gather(missing.empty() ? 1 : 0, Traffic::control))
    with_gpu += has;
  if (with_gpu < world_->size()) {
    agree([&] {
      if (comm == "nccl" && !missing.empty())
        throw ConfigError("--comm nccl: it needs a GPU for every rank: {}", missing);
    });
    if (with_gpu > 0 && world_->rank() == 0) {
      log::warn("{} of {} ranks have a GPU: all compute on the CPU (--device cuda says why)",
                with_gpu, world_->size());
    }
    return;
  }

  device_ = cuda_device(local_rank_);
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device_);
  std::array<std::int64_t, 2> uuid{};
  agree([&] { uuid = gpu_uuid(device_); });
  const Sharing sharing = find_sharing(*world_, uuid);
  const std::string reason = why_not_nccl(sharing);
  agree([&] {
    if (comm == "nccl" && !reason.empty()) throw ConfigError("--comm nccl: {}", reason);
  });
  std::int64_t able = 0;
  for (const std::int64_t one : world_->all_gather(reason.empty() ? 1 : 0, Traffic::control))
    able += one;
  // Alone there is nothing to move; on a shared GPU NCCL is an experiment, to be asked for.
  const bool nccl = comm == "nccl" || (comm == "auto" && able == world_->size() &&
                                       world_->size() > 1 && sharing.first < 0);
  std::string over = "MPI through pinned memory";
  if (nccl) over = fmt::format("NCCL {}.{}", nccl_version() / 10000, nccl_version() / 100 % 100);
  log::info("ranks: {}, GPUs: {} ({}), {}", world_->size(), sharing.gpus, gpu_name(device_),
            world_->size() == 1 && !nccl ? "nothing to exchange" : over);
  if (device == "auto" && sharing.first >= 0 && world_->rank() == 0) {
    log::warn(
        "{} ranks share {} GPUs (ranks {} and {} one of them), its memory and its time: start one "
        "rank for each GPU, or choose with --device cpu or --device cuda",
        world_->size(), sharing.gpus, sharing.first, sharing.second);
  }
  // With a watchdog, it is the one that says when waiting has lasted too long.
  if (nccl) {
    world_ = guarded(make_nccl_communicator(mpi_world_, device_,
                                            watchdog_ ? std::chrono::hours(24 * 365) : kNcclLimit));
  }
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
  const std::vector<int> cores = affinity_cores();
  const std::string key = fmt::format("{} {}", host_name(), fmt::join(cores, ","));
  const auto sharing = static_cast<int>(sum_over_place(world, key, 1));

  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    int threads = 0;
    const std::string_view view = text;
    const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), threads);
    if (error == std::errc{} && end == view.data() + view.size() && threads > 0) return threads;
  }
  return std::max(1, static_cast<int>(cores.size()) / sharing);
}

}  // namespace graphlora
