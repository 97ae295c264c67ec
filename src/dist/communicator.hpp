// One interface to MPI and NCCL. Every operation is collective over the communicator's ranks, must
// be issued in the same order on each, is non-blocking and returns a Handle; tensors must be
// contiguous and stay alive (the handle keeps them) until `wait` returns. Tensors are on the CPU or
// on a GPU, all of one operation alike and on every rank; either kind goes through any
// communicator, so that callers need not tell them apart. Work queued on the current stream before
// an operation is issued comes before it, work queued after `wait` behind it. Errors are CommError;
// nothing exits the process.
#pragma once
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace graphlora {

class FlightRecorder;
struct FlightAxis;

enum class ReduceOp { sum, max, min };

/// What bytes are moved for: counters are kept per kind, so that a test can prove what travels.
enum class Traffic : std::uint8_t {
  parameters,
  activations,  ///< of the split linears, over the tensor axis
  halo,
  hubs,
  anchors,
  embedding,
  metrics,
  control,
  pretrain,
  count
};

/// "halo", "control", …
const char* traffic_name(Traffic traffic);

/// A running operation. Move-only; destroying or overwriting one that was not waited for waits,
/// except while an exception unwinds the stack: then other ranks may never come, and the operation
/// is abandoned.
class Handle {
 public:
  struct Operation {
    virtual ~Operation() = default;
    virtual void wait() = 0;
  };
  Handle() = default;
  explicit Handle(std::unique_ptr<Operation> operation) : operation_(std::move(operation)) {}
  Handle(Handle&&) = default;
  Handle& operator=(Handle&& other);
  ~Handle();
  /// Blocks until the result is ready (on CUDA: makes the current stream wait). Throws CommError.
  void wait();

 private:
  std::unique_ptr<Operation> operation_;
};

/// Bytes this rank handed to operations of one kind, and their time.
struct TrafficCounter {
  std::int64_t operations = 0;
  std::int64_t bytes =
      0;               ///< all-reduce, broadcast: the tensor once; others: rows sent to other ranks
  double seconds = 0;  ///< between issue and completion, as seen by wait (NCCL: by the GPU's clock)
  double exposed_seconds = 0;  ///< spent inside wait (NCCL: by the stream that waits)
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// In place, element-wise. bf16 is reduced in fp32.
  virtual Handle all_reduce(at::Tensor tensor, ReduceOp op, Traffic traffic) = 0;
  virtual Handle broadcast(at::Tensor tensor, int root, Traffic traffic) = 0;
  /// Rows of all ranks one behind the other: `receive` has Σ counts rows, `send` counts[rank()];
  /// the trailing shape and dtype are the same everywhere.
  virtual Handle all_gather_rows(at::Tensor send, at::Tensor receive,
                                 std::span<const std::int64_t> counts, Traffic traffic) = 0;
  /// send_counts[p] rows go to rank p, in order; receive_counts[p] rows come from it. Counts are in
  /// rows.
  virtual Handle all_to_all_rows(at::Tensor send, std::span<const std::int64_t> send_counts,
                                 at::Tensor receive, std::span<const std::int64_t> receive_counts,
                                 Traffic traffic) = 0;
  /// Rows summed over ranks; rank p keeps its counts[p] rows.
  virtual Handle reduce_scatter_rows(at::Tensor send, at::Tensor receive,
                                     std::span<const std::int64_t> counts, Traffic traffic) = 0;
  virtual void barrier() = 0;
  /// Operations issued between begin and end may be fused (NCCL groups); handles may be waited for
  /// after end, not before. Groups nest.
  virtual void group_begin() = 0;
  virtual void group_end() = 0;
  /// Ranks with the same color, ordered by key. Collective.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  /// Blocking convenience over the above: counts[p] of what every rank p will send to every other.
  std::vector<std::int64_t> exchange_counts(std::span<const std::int64_t> send_counts,
                                            Traffic traffic);
  /// `value` of every rank, in rank order. Blocking.
  std::vector<std::int64_t> all_gather(std::int64_t value, Traffic traffic);
  /// Rows of every rank with counts found out first: returns (rows, counts). Blocking.
  std::pair<at::Tensor, std::vector<std::int64_t>> all_gather_varying(const at::Tensor& rows,
                                                                      Traffic traffic);
  /// The text of rank `root` on every rank; what others give is of no account. Blocking.
  std::string broadcast_text(std::string text, int root, Traffic traffic);

  const TrafficCounter& counter(Traffic traffic) const {
    return (*counters_)[static_cast<std::size_t>(traffic)];
  }
  void reset_counters() { *counters_ = {}; }

  /// Where operations are noted; a communicator split from another notes in the same place. May be
  /// null.
  const std::shared_ptr<FlightRecorder>& recorder() const { return recorder_; }
  /// What recordings call these ranks: "data", "tensor".
  void name_axis(const std::string& name);

 protected:
  TrafficCounter& counter_of(Traffic traffic) {
    return (*counters_)[static_cast<std::size_t>(traffic)];
  }
  using Counters = std::array<TrafficCounter, static_cast<std::size_t>(Traffic::count)>;
  /// They outlive the communicator where an operation still under way holds them.
  std::shared_ptr<Counters> counters() const { return counters_; }
  /// From now on both communicators count and note in one place.
  void share_records(const Communicator& other);
  /// From now on operations are noted there, as ones of these world ranks.
  void record_in(std::shared_ptr<FlightRecorder> recorder, const std::string& axis,
                 std::vector<int> world_ranks);
  /// Notes an operation that begins; returns its number. `peers`: see FlightRecorder::Operation.
  std::uint64_t note(const char* operation, Traffic traffic, std::int64_t bytes,
                     std::uint64_t peers = 0) const;

 private:
  std::shared_ptr<FlightRecorder> recorder_;
  std::shared_ptr<FlightAxis> axis_;
  std::shared_ptr<Counters> counters_ = std::make_shared<Counters>();
};

/// Groups operations for as long as it lives.
class CommunicationGroup {
 public:
  explicit CommunicationGroup(Communicator& communicator) : communicator_(communicator) {
    communicator_.group_begin();
  }
  ~CommunicationGroup() noexcept(false) { communicator_.group_end(); }
  CommunicationGroup(const CommunicationGroup&) = delete;

 private:
  Communicator& communicator_;
};

}  // namespace graphlora
