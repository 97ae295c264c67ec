#include "dist/watchdog.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <system_error>

#include "core/error.hpp"
#include "core/file.hpp"
#include "dist/host_name.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

/// How long the other ranks have to write their recordings before this one ends them.
constexpr milliseconds kGrace{1500};
/// What a rank gets at least to give a sign of life, however short the limit: on a busy machine its
/// watchdog may have to wait for a core.
constexpr milliseconds kLeastAnswer{2000};
/// A tick that lasts longer, or longer than the limit, hangs.
constexpr milliseconds kStuckTick{10'000};
constexpr milliseconds kTurn{500};
/// Uses less of one core's time: neither computes nor reads.
constexpr double kIdleShare = 0.001;
constexpr const char* kWantsRecordings = "record";
/// The rank that reads all signs and writes their table.
constexpr int kGatherer = 0;
/// Names in a message; the others are counted. And so many ranks that seem to be silent or idle are
/// looked at by each rank that judges, so that this too grows with the ranks only.
constexpr std::size_t kShown = 8;

template <class Duration>
double seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

/// Processor time of this process, but for the calling thread.
double others_processor_seconds() {
  const auto used_by = [](int who) {
    rusage usage{};
    getrusage(who, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  return used_by(RUSAGE_SELF) - used_by(RUSAGE_THREAD);
}

/// One line, by one system call: buffers and locks may be what hangs.
void print_line(std::string text) {
  text += '\n';
  // The result is of no use here: the process ends.
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

template <class Item>
std::string list_few(const std::vector<Item>& items) {
  const std::size_t shown = std::min(kShown, items.size());
  const auto end = items.begin() + static_cast<std::ptrdiff_t>(shown);
  return fmt::format("{}{}", fmt::join(items.begin(), end, ", "),
                     items.size() > shown ? fmt::format(" and {} more", items.size() - shown) : "");
}

/// A thread that no signal interrupts.
template <class Body>
std::thread quiet_thread(Body body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

Watchdog::Watchdog(std::shared_ptr<FlightRecorder> recorder, milliseconds limit, fs::path directory)
    : recorder_(std::move(recorder)),
      limit_(limit),
      // The others need a while to find the question and to answer it: some file systems show a new
      // file only after a minute.
      ask_after_(std::max(milliseconds{0}, limit - std::max(limit * 3 / 10, milliseconds{1000}))),
      tick_(std::clamp(limit / 50, milliseconds{20}, milliseconds{1000})),
      directory_(std::move(directory)),
      files_(directory_, 0),
      ticked_(steady_now()) {
  try {
    thread_ = quiet_thread([this] { watch(); });
    second_thread_ = quiet_thread([this] { watch_the_watcher(); });
  } catch (const std::system_error& error) {
    stop();
    throw Error(ExitCode::internal,
                fmt::format("no thread to be had for the watchdog ({}): raise the limit of "
                            "processes (ulimit -u)",
                            error.what()));
  }
}

Watchdog::~Watchdog() { stop(); }

void Watchdog::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread* thread : {&thread_, &second_thread_})
    if (thread->joinable()) thread->join();
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, tick_, [this] { return stopping_; })) {
    lock.unlock();
    try {
      tick();
      trouble_.clear();
    } catch (const std::exception& error) {  // files that can't be written: the limit holds anyway
      trouble_ = error.what();
      const FlightRecorder::Wait wait = recorder_->waiting();
      if (wait.sequence != 0 && steady_now() - wait.since > nanoseconds(limit_).count())
        end(wait, fmt::format("the other ranks can't be asked ({})", trouble_));
    }
    ticked_.store(steady_now());
    lock.lock();
  }
  lock.unlock();
  try {
    withdraw();
    retract();
  } catch (const std::exception&) {  // NOLINT: nobody needs these files any longer
  }
}

void Watchdog::watch_the_watcher() {
  // Counted in turns of this loop, since a process that was stopped for a while has only slept.
  const auto most = std::min(kStuckTick, 2 * limit_) / kTurn;
  std::int64_t last = ticked_.load(), turns = 0;
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kTurn, [this] { return stopping_; })) {
    const std::int64_t ticked = ticked_.load();
    turns = ticked == last ? turns + 1 : 0;
    last = ticked;
    const FlightRecorder::Wait wait = recorder_->waiting();
    if (turns < most || wait.sequence == 0 ||
        steady_now() - wait.since < nanoseconds(limit_).count())
      continue;
    print_line(fmt::format("error: {}; the file system of {} does not answer either",
                           waited_text(wait), directory_.string()));
    _exit(static_cast<int>(ExitCode::communication));
  }
}

void Watchdog::tick() {
  const FlightRecorder::Wait wait = recorder_->waiting();
  note_work(wait);
  if (const std::int64_t run = recorder_->place()->run; run != files_.run()) {
    withdraw();
    retract();
    files_ = SignsOfLife(directory_, run);
  }
  std::error_code error;
  if (fs::exists(files_.asked_file(), error)) {
    answer();
  } else if (answered_) {
    retract();
    recorded_ = false;
  }
  const auto waited =
      wait.sequence == 0 ? milliseconds{0} : milliseconds{(steady_now() - wait.since) / 1'000'000};
  if (wait.sequence == 0 || waited < ask_after_) {
    withdraw();
    return;
  }
  if (!asking_) {
    // No less, even if the limit is over: perhaps the whole job was stopped for a while.
    look(read_signs(), std::max({limit_ - waited, limit_ - ask_after_, kLeastAnswer}));
    asking_ = true;
  }
  ask();
  if (Clock::now() >= judge_at_) judge(wait);
}

/// An idle rank is one whose process has done nothing at all: its operations stand still and it
/// uses no processor time.
void Watchdog::note_work(const FlightRecorder::Wait& wait) {
  const auto now = Clock::now();
  const double used = others_processor_seconds();
  const double share = (used - processor_seconds_) / std::max(1e-3, seconds(now - worked_));
  const std::uint64_t progress = recorder_->progress();
  const bool was_stopped = steady_now() - ticked_.load() > nanoseconds(20 * tick_).count();
  if (wait.sequence == 0 && progress == progress_ && share < kIdleShare && !was_stopped) return;
  worked_ = now;
  processor_seconds_ = used;
  progress_ = progress;
}

Sign Watchdog::own_sign() const {
  const std::int64_t now = steady_now();
  const FlightRecorder::Wait wait = recorder_->waiting();
  const auto at = recorder_->operation(wait.sequence != 0 ? wait.sequence : recorder_->last());
  Sign sign;
  sign.beat = beat_;
  sign.waits = wait.sequence != 0 ? std::max(1e-9, seconds(nanoseconds(now - wait.since))) : 0;
  sign.idle = seconds(Clock::now() - worked_);
  sign.doing = at ? recorder_->describe(*at) : "nothing";
  return sign;
}

void Watchdog::answer() {
  std::string question;
  try {
    question = read_file(files_.asked_file(), 1024);
  } catch (const DataError&) {
    return;  // withdrawn meanwhile
  }
  if (question == kWantsRecordings && !recorded_)
    record("asked", "another rank of the job has found a hang");
  give_sign();
  if (recorder_->place()->rank == kGatherer && Clock::now() - gathered_at_ >= limit_ / 20) gather();
}

void Watchdog::give_sign() {
  const auto now = Clock::now();
  if (answered_ && now - answered_at_ < limit_ / 10) return;
  ++beat_;
  files_.write(recorder_->place()->rank, own_sign());
  answered_ = true;
  answered_at_ = now;
}

/// Of many ranks this takes a while, in which this rank is alive.
Signs Watchdog::gather() {
  Signs signs = files_.read_all(recorder_->place()->ranks, [this] {
    ticked_.store(steady_now());
    give_sign();
  });
  files_.write_table(signs);
  gathered_at_ = Clock::now();
  return signs;
}

void Watchdog::ask() {
  std::error_code error;
  if (fs::exists(files_.asked_file(), error)) return;
  make_directories(directory_);
  write_file(files_.asked_file(), "");
  answer();
}

/// Another rank that still asks asks anew.
void Watchdog::withdraw() {
  if (!asking_) return;
  asking_ = false;
  before_.clear();
  std::error_code error;
  fs::remove(files_.asked_file(), error);
  retract();
}

void Watchdog::retract() {
  if (!answered_) return;
  const int rank = recorder_->place()->rank;
  files_.remove(rank);
  if (rank == kGatherer) files_.remove_table();
  answered_ = false;
}

void Watchdog::look(Signs signs, milliseconds until_judged) {
  before_ = std::move(signs);
  looked_at_ = Clock::now();
  judge_at_ = looked_at_ + until_judged;
}

Signs Watchdog::read_signs() {
  return recorder_->place()->rank == kGatherer ? gather() : files_.read_table();
}

void Watchdog::judge(const FlightRecorder::Wait& wait) {
  const auto place = recorder_->place();
  const double limit = seconds(limit_);
  // A sign may be as old as the time between two of them and that between two tables.
  const double looked = seconds(Clock::now() - looked_at_) - seconds(limit_ * 3 / 20 + 4 * tick_);
  Signs now = read_signs();
  now[place->rank] = own_sign();
  const auto is_silent = [&](int rank) {
    const auto sign = now.find(rank), old = before_.find(rank);
    return sign == now.end() || (old != before_.end() && old->second.beat >= sign->second.beat);
  };
  const auto is_idle = [&](int rank) {
    const auto sign = now.find(rank);
    return sign != now.end() && sign->second.waits == 0 && sign->second.idle >= limit;
  };
  std::vector<int> silent, idle, working, newcomers;
  std::size_t checked = 0;
  bool unclear = false;
  for (int rank = 0; rank < place->ranks; ++rank) {
    if (rank == place->rank) continue;
    if (is_silent(rank) || is_idle(rank)) {
      if (checked++ == kShown) {
        unclear = true;  // whoever is among them is found at the next look
        break;
      }
      if (auto sign = files_.read(rank)) now[rank] = std::move(*sign);
    }
    if (is_silent(rank)) {
      silent.push_back(rank);
    } else if (is_idle(rank)) {
      idle.push_back(rank);
    } else if (now[rank].waits == 0) {
      working.push_back(rank);
    } else if (now[rank].waits < looked) {
      newcomers.push_back(rank);
    }
  }
  if (recorder_->waiting().sequence != wait.sequence) return;  // reading takes a while
  if (!silent.empty()) {
    end(wait, fmt::format("{}{} {} not respond (stopped, dead or cut off)", names_of(silent),
                          unclear ? " and perhaps others" : "",
                          silent.size() == 1 && !unclear ? "does" : "do"));
  }
  if (!idle.empty()) {
    end(wait, fmt::format("{} has neither computed nor communicated for {:.0f} s, since {}",
                          name_of(idle.front()), now[idle.front()].idle, now[idle.front()].doing));
  }
  if (working.empty() && newcomers.empty() && !unclear) {
    std::map<std::string, std::vector<int>> places;
    for (const auto& [rank, sign] : now) places[sign.doing].push_back(rank);
    std::string all;
    for (const auto& [doing, ranks] : places)
      all += fmt::format("{}rank{} {} in {}", all.empty() ? "" : "; ", ranks.size() == 1 ? "" : "s",
                         list_few(ranks), doing);
    end(wait, fmt::format("all ranks wait for one another: {} (a lost message, or operations that "
                          "don't match: --comm.debug finds the first one)",
                          all));
  }
  // Newcomers have only now come to their operation: it may be what the others have waited for.
  const auto first_waiting =
      std::find_if(now.begin(), now.end(), [](const auto& sign) { return sign.second.waits > 0; });
  if (!working.empty() && warned_ != wait.sequence && first_waiting != now.end() &&
      first_waiting->first == place->rank) {
    warned_ = wait.sequence;
    print_line(fmt::format("note: {}; {} is alive and at work, since {}", waited_text(wait),
                           name_of(working.front()), now[working.front()].doing));
  }
  look(std::move(now), std::max(limit_ * 3 / 10, kLeastAnswer));
}

void Watchdog::record(const std::string& reason, const std::string& message) {
  recorded_ = true;
  make_directories(directory_);
  write_file(directory_ / flight_file_name(recorder_->place()->rank),
             recorder_->to_json(reason, message)
                     .dump(1, ' ', false, nlohmann::json::error_handler_t::replace) +
                 "\n");
}

void Watchdog::end(const FlightRecorder::Wait& wait, const std::string& verdict) {
  std::string text = fmt::format("error: {}: {}", waited_text(wait), verdict);
  try {
    if (trouble_.empty()) {
      write_file(files_.asked_file(), kWantsRecordings);
      record("hang", text);
      text += fmt::format("; graphlora inspect {} compares the ranks' last operations",
                          directory_.string());
      std::this_thread::sleep_for(kGrace);
      std::error_code error;
      fs::remove(files_.asked_file(), error);
      retract();
    }
  } catch (const std::exception& error) {
    text += fmt::format("; no recording could be written ({})", error.what());
  }
  print_line(text);
  _exit(static_cast<int>(ExitCode::communication));
}

std::string Watchdog::name_of(int rank) const {
  const auto place = recorder_->place();
  if (static_cast<std::size_t>(rank) < place->hosts.size())
    return fmt::format("rank {} on {}", rank, place->hosts[static_cast<std::size_t>(rank)]);
  return rank == place->rank ? fmt::format("rank {} on {}", rank, host_name())
                             : fmt::format("rank {}", rank);
}

std::string Watchdog::names_of(const std::vector<int>& ranks) const {
  std::vector<std::string> names;
  for (const int rank : ranks) names.push_back(name_of(rank));
  return list_few(names);
}

std::string Watchdog::waited_text(const FlightRecorder::Wait& wait) const {
  const auto operation = recorder_->operation(wait.sequence);
  return fmt::format("{} waited {:.1f} s in {}", name_of(recorder_->place()->rank),
                     seconds(nanoseconds(steady_now() - wait.since)),
                     operation ? recorder_->describe(*operation) : "an operation");
}

}  // namespace graphlora
