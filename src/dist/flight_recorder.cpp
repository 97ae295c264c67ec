#include "dist/flight_recorder.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "dist/host_name.hpp"

namespace graphlora {
namespace {

constexpr std::size_t kFewPeers = 8;

std::int64_t system_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::int64_t steady_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string flight_file_name(int rank) { return fmt::format("rank-{:05}.json", rank); }

std::shared_ptr<FlightAxis> FlightRecorder::add_axis(std::string name, std::vector<int> ranks) {
  auto axis = std::make_shared<FlightAxis>();
  axis->name = std::move(name);
  axis->ranks = std::move(ranks);
  const std::lock_guard lock(mutex_);
  axis->index = static_cast<int>(axes_.size());
  axes_.push_back(axis);
  return axis;
}

void FlightRecorder::name_axis(FlightAxis& axis, std::string name) {
  const std::lock_guard lock(mutex_);
  axis.name = std::move(name);
}

// A reader must never take half of one operation and half of the next one for a whole: the writer
// takes the slot's number away before it changes anything, and the reader accepts what lies between
// two equal readings of that number.
FlightRecorder::Id FlightRecorder::issue(const char* name, const char* traffic, FlightAxis& axis,
                                         std::int64_t bytes, std::uint64_t peers) {
  const Id sequence = next_.fetch_add(1, std::memory_order_relaxed);
  Slot& to = slot(sequence);
  to.sequence.store(0, std::memory_order_relaxed);
  constexpr auto kRelease = std::memory_order_release;
  to.axis_sequence.store(axis.operations.fetch_add(1, std::memory_order_relaxed) + 1, kRelease);
  to.name.store(name, kRelease);
  to.traffic.store(traffic, kRelease);
  to.axis.store(axis.index, kRelease);
  to.bytes.store(bytes, kRelease);
  to.peers.store(peers, kRelease);
  to.step.store(step(), kRelease);
  to.issued.store(steady_now(), kRelease);
  to.waited.store(0, kRelease);
  to.completed.store(0, kRelease);
  to.sequence.store(sequence, kRelease);
  progress_.fetch_add(1, std::memory_order_relaxed);
  return sequence;
}

void FlightRecorder::complete(Id sequence) {
  Slot& of = slot(sequence);
  if (of.sequence.load(std::memory_order_relaxed) == sequence)
    of.completed.store(steady_now(), std::memory_order_release);
  progress_.fetch_add(1, std::memory_order_relaxed);
}

FlightRecorder::Waiting::Waiting(FlightRecorder& recorder, Id sequence) : recorder_(recorder) {
  const std::int64_t now = steady_now();
  Slot& of = recorder_.slot(sequence);
  if (of.sequence.load(std::memory_order_relaxed) == sequence)
    of.waited.store(now, std::memory_order_release);
  recorder_.waiting_since_.store(now, std::memory_order_release);
  recorder_.waiting_.store(sequence, std::memory_order_release);
}

FlightRecorder::Waiting::~Waiting() { recorder_.waiting_.store(0, std::memory_order_release); }

void FlightRecorder::set_place(Place place) {
  auto shared = std::make_shared<const Place>(std::move(place));
  const std::lock_guard lock(mutex_);
  place_ = std::move(shared);
}

std::shared_ptr<const FlightRecorder::Place> FlightRecorder::place() const {
  const std::lock_guard lock(mutex_);
  return place_;
}

void FlightRecorder::set_device_probe(std::function<Id()> probe) {
  const std::lock_guard lock(mutex_);
  device_probe_ = std::move(probe);
}

FlightRecorder::Wait FlightRecorder::waiting() const {
  const Id sequence = waiting_.load(std::memory_order_acquire);
  const std::int64_t since = waiting_since_.load(std::memory_order_acquire);
  if (sequence != 0 && waiting_.load(std::memory_order_acquire) == sequence)
    return {sequence, since};
  std::function<Id()> probe;
  {
    const std::lock_guard lock(mutex_);
    probe = device_probe_;
  }
  if (!probe) return {};
  const std::optional<Operation> oldest = operation(probe());
  return oldest ? Wait{oldest->sequence, oldest->issued} : Wait{};
}

std::optional<FlightRecorder::Operation> FlightRecorder::operation(Id sequence) const {
  constexpr auto kAcquire = std::memory_order_acquire;
  const Slot& from = slot(sequence);
  if (sequence == 0 || from.sequence.load(kAcquire) != sequence) return std::nullopt;
  Operation operation;
  operation.sequence = sequence;
  operation.axis_sequence = from.axis_sequence.load(kAcquire);
  operation.name = from.name.load(kAcquire);
  operation.traffic = from.traffic.load(kAcquire);
  operation.axis = from.axis.load(kAcquire);
  operation.bytes = from.bytes.load(kAcquire);
  operation.peers = from.peers.load(kAcquire);
  operation.step = from.step.load(kAcquire);
  operation.issued = from.issued.load(kAcquire);
  operation.waited = from.waited.load(kAcquire);
  operation.completed = from.completed.load(kAcquire);
  if (from.sequence.load(kAcquire) != sequence) return std::nullopt;
  return operation;
}

std::vector<int> FlightRecorder::peers_of(const Operation& operation) const {
  const std::lock_guard lock(mutex_);
  const std::vector<int>& ranks = axes_.at(static_cast<std::size_t>(operation.axis))->ranks;
  std::vector<int> peers;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (operation.peers == 0 || (r < 64 && ((operation.peers >> r) & 1U) != 0))
      peers.push_back(ranks[r]);
  }
  if (peers.size() > kFewPeers) peers.clear();
  return peers;
}

std::string FlightRecorder::describe(const Operation& operation) const {
  std::string axis;
  {
    const std::lock_guard lock(mutex_);
    axis = axes_.at(static_cast<std::size_t>(operation.axis))->name;
  }
  std::string text = fmt::format("{} #{} ({} #{}", operation.name, operation.sequence, axis,
                                 operation.axis_sequence);
  if (operation.bytes > 0)
    text += fmt::format(", {} bytes of {}", operation.bytes, operation.traffic);
  if (const std::vector<int> peers = peers_of(operation); !peers.empty())
    text += fmt::format(", ranks {}", fmt::join(peers, ","));
  if (operation.step >= 0) text += fmt::format(", step {}", operation.step);
  return text + ")";
}

nlohmann::ordered_json FlightRecorder::to_json(const std::string& reason,
                                               const std::string& message) const {
  using Json = nlohmann::ordered_json;
  const std::int64_t now = steady_now(), epoch = system_now() - now;
  const auto seconds = [&](std::int64_t time) {
    return time == 0 ? Json() : Json(static_cast<double>((time + epoch) / 1000) / 1e6);
  };
  const auto where = place();
  const Wait wait = waiting();
  const Id end = last();
  Json json{{"format_version", 1},
            {"kind", "flight recording"},
            {"run", where->run},
            {"rank", where->rank},
            {"ranks", where->ranks},
            {"host", host_name()},
            {"pid", getpid()},
            {"reason", reason},
            {"message", message},
            {"written", seconds(now)},
            {"step", step()},
            {"sequence", end},
            {"waiting", nullptr},
            {"axes", Json::array()},
            {"operations", Json::array()}};
  if (wait.sequence != 0) {
    json["waiting"] = {{"sequence", wait.sequence},
                       {"seconds", static_cast<double>((now - wait.since) / 1000) / 1e6}};
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& axis : axes_) {
      json["axes"].push_back(
          {{"name", axis->name}, {"ranks", axis->ranks}, {"operations", axis->operations.load()}});
    }
  }
  for (Id sequence = end > kKept ? end - kKept + 1 : 1; sequence <= end; ++sequence) {
    const std::optional<Operation> one = operation(sequence);
    if (!one) continue;
    json["operations"].push_back({{"sequence", one->sequence},
                                  {"axis", one->axis},
                                  {"axis_sequence", one->axis_sequence},
                                  {"operation", one->name},
                                  {"traffic", one->traffic},
                                  {"bytes", one->bytes},
                                  {"peers", peers_of(*one)},
                                  {"step", one->step},
                                  {"issued", seconds(one->issued)},
                                  {"waited", seconds(one->waited)},
                                  {"completed", seconds(one->completed)}});
  }
  return json;
}

}  // namespace graphlora
