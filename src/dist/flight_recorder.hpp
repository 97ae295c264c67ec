// The last operations of a rank, kept in memory to be looked at when something goes wrong. Knows
// neither MPI nor tensors.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace graphlora {

/// The ranks that one communicator spans: what recordings call it, and its members as world ranks.
struct FlightAxis {
  std::string name;  ///< guarded by the recorder
  std::vector<int> ranks;
  int index = 0;
  std::atomic<std::uint64_t> operations{0};
};

/// Notes every operation of a rank: issued, waited for, completed. The last kKept are kept. Noting
/// one takes no lock and no allocation; any thread may read at any time.
class FlightRecorder {
 public:
  static constexpr std::size_t kKept = 1000;
  /// Number of an operation among all of this rank, from 1.
  using Id = std::uint64_t;

  /// One operation as read back. Times are of the steady clock in nanoseconds, 0: not yet.
  struct Operation {
    Id sequence = 0;
    std::uint64_t axis_sequence = 0;  ///< number among the operations of its axis, from 1
    const char* name = "";
    const char* traffic = "";
    int axis = 0;
    std::int64_t bytes = 0;
    std::uint64_t peers = 0;  ///< bit r: rank r of the axis takes part; 0: all, or too many ranks
    std::int64_t step = -1;
    std::int64_t issued = 0, waited = 0, completed = 0;
  };
  /// The operation that this rank is blocked in, and since when; sequence 0: none.
  struct Wait {
    Id sequence = 0;
    std::int64_t since = 0;
  };
  /// Who is recorded.
  struct Place {
    int rank = 0, ranks = 1;
    std::int64_t run = 0;            ///< the same on all ranks of a job, another in the next job
    std::vector<std::string> hosts;  ///< of every rank; may be empty
  };

  /// `name`: "world", "data", "tensor", …
  std::shared_ptr<FlightAxis> add_axis(std::string name, std::vector<int> ranks);
  void name_axis(FlightAxis& axis, std::string name);

  /// Notes an operation that begins. `name` and `traffic` must live for ever.
  Id issue(const char* name, const char* traffic, FlightAxis& axis, std::int64_t bytes,
           std::uint64_t peers = 0);
  /// Notes that it is through.
  void complete(Id sequence);
  Id last() const { return next_.load(std::memory_order_relaxed) - 1; }

  /// While one lives, its rank is blocked in an operation.
  class Waiting {
   public:
    Waiting(FlightRecorder& recorder, Id sequence);
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    FlightRecorder& recorder_;
  };

  void set_step(std::int64_t step) { step_.store(step, std::memory_order_relaxed); }
  std::int64_t step() const { return step_.load(std::memory_order_relaxed); }
  void set_place(Place place);
  std::shared_ptr<const Place> place() const;

  /// Finds the oldest operation that a device is not through with (0: none), for the device's
  /// operations block no host. Called by the watchdog's thread.
  void set_device_probe(std::function<Id()> probe);

  /// Where the rank is blocked; if nowhere, what its device has not come through with.
  Wait waiting() const;
  /// Grows with every operation that is issued or completes.
  std::uint64_t progress() const { return progress_.load(std::memory_order_relaxed); }
  /// Nothing where it was overwritten by now.
  std::optional<Operation> operation(Id sequence) const;
  /// "all-reduce #12 (world #8, 40 bytes of metrics, step 3)", with the peers where they are few.
  std::string describe(const Operation& operation) const;

  /// The recording as docs/reliability.md describes it. `reason`: alone, hang, agreed, asked;
  /// `message`: what was printed.
  nlohmann::ordered_json to_json(const std::string& reason, const std::string& message) const;

 private:
  struct Slot {
    std::atomic<Id> sequence{0};
    std::atomic<std::uint64_t> axis_sequence{0}, peers{0};
    std::atomic<const char*> name{nullptr}, traffic{nullptr};
    std::atomic<int> axis{0};
    std::atomic<std::int64_t> bytes{0}, step{0}, issued{0}, waited{0}, completed{0};
  };
  static constexpr std::size_t kSlots = 1024;
  static_assert(kSlots >= kKept);

  Slot& slot(Id sequence) { return slots_[sequence % kSlots]; }
  const Slot& slot(Id sequence) const { return slots_[sequence % kSlots]; }
  std::vector<int> peers_of(const Operation& operation) const;

  std::array<Slot, kSlots> slots_;
  std::atomic<Id> next_{1};
  std::atomic<std::uint64_t> progress_{0};
  std::atomic<std::int64_t> step_{-1};
  std::atomic<Id> waiting_{0};
  std::atomic<std::int64_t> waiting_since_{0};

  mutable std::mutex mutex_;  // of what follows
  std::vector<std::shared_ptr<FlightAxis>> axes_;
  std::shared_ptr<const Place> place_ = std::make_shared<Place>();
  std::function<Id()> device_probe_;
};

/// Nanoseconds of the steady clock, in which recordings keep their times.
std::int64_t steady_now();

/// Name of a rank's recording in a directory of them: rank-00000.json.
std::string flight_file_name(int rank);

}  // namespace graphlora
