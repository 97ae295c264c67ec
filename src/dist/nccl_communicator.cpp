#include "dist/nccl_communicator.hpp"

#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <cstring>
#include <deque>
#include <exception>
#include <future>
#include <mutex>
#include <numeric>
#include <thread>

#include "core/error.hpp"
#include "core/profile_range.hpp"
#include "dist/check_tensors.hpp"
#include "dist/flight_recorder.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;

std::string version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

c10::Event timed_event() { return {at::kCUDA, c10::EventFlag::BACKEND_DEFAULT}; }

/// What one group hands to the GPU at once.
struct Launch {
  c10::Event done = timed_event();
  bool launched = false;  // from then on `done` is recorded
  Clock::time_point since = Clock::now();
};

/// An operation that was issued, until the GPU is through with it.
struct Pending {
  const char* name;
  std::uint64_t noted;
  TrafficCounter* counter;
  std::shared_ptr<void> counter_owner;
  std::shared_ptr<Launch> launch;
  std::vector<at::Tensor> keep;  // until it is waited for: then streams order what follows
  c10::Event issued = timed_event();
  c10::Event waiting = timed_event();
  bool waited = false;
  bool completion_noted = false;
};

class NcclCommunicator;

/// What the communicators that were split from one another share.
struct Tree {
  at::Device device;
  c10::cuda::CUDAStream stream;
  std::chrono::seconds limit;
  int depth = 0;                        // of open groups
  std::shared_ptr<Launch> launch = {};  // of the open group
  std::vector<NcclCommunicator*> in_group = {};
  std::mutex mutex = {};  // of the list below and its launches, which the watchdog's thread reads
  std::deque<std::shared_ptr<Pending>> under_way = {};
  std::string failure = {};  // the first one; nothing can be issued after it

  /// Notes what the GPU is through with; returns the number of the first operation that it is not
  /// through with, 0 where there is none. From any thread.
  std::uint64_t note_completions(FlightRecorder& recorder) {
    const std::lock_guard lock(mutex);
    for (const auto& one : under_way) {
      if (!one->launch->launched) return 0;
      if (one->completion_noted) continue;
      if (!one->launch->done.query()) return one->noted;
      recorder.complete(one->noted);
      one->completion_noted = true;
    }
    return 0;
  }

  // The GPU may still write to what operations have kept: it lives on until the process ends.
  ~Tree() {
    if (!failure.empty() || std::uncaught_exceptions() > 0)
      static_cast<void>(
          std::make_unique<std::deque<std::shared_ptr<Pending>>>(std::move(under_way)).release());
  }
};

/// A communicator of NCCL's and its end.
class OwnedComm {
 public:
  explicit OwnedComm(std::shared_ptr<Tree> tree) : tree_(std::move(tree)) {}
  OwnedComm(OwnedComm&& other) noexcept
      : tree_(std::move(other.tree_)), comm_(std::exchange(other.comm_, nullptr)) {}
  OwnedComm& operator=(OwnedComm&&) = delete;
  ~OwnedComm() {
    if (comm_ == nullptr) return;
    const bool healthy = tree_->failure.empty() && std::uncaught_exceptions() == 0;
    if (!healthy || !close()) abort();
  }
  ncclComm_t get() const { return comm_; }
  ncclComm_t* put() { return &comm_; }

 private:
  /// Collective, within a time limit. False: it can't be closed.
  bool close() {
    ncclResult_t state = ncclCommFinalize(comm_);
    const auto end = Clock::now() + std::chrono::seconds(30);
    while (state == ncclInProgress && Clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return false;
    }
    return state == ncclSuccess && ncclCommDestroy(comm_) == ncclSuccess;
  }

  /// Ends what runs on the GPU. NCCL may wait for the other ranks here, which may never come: not
  /// for long, since the message about the error is still to be printed.
  void abort() {
    try {
      auto aborted = std::make_shared<std::promise<void>>();
      std::future<void> future = aborted->get_future();
      std::thread([comm = comm_, aborted] {
        static_cast<void>(ncclCommAbort(comm));
        aborted->set_value();
      }).detach();
      future.wait_for(std::chrono::seconds(2));
    } catch (const std::system_error&) {  // NOLINT: no thread to be had; the process ends anyway
    }
  }

  std::shared_ptr<Tree> tree_;
  ncclComm_t comm_ = nullptr;
};

ncclConfig_t non_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

/// How NCCL reduces tensors of a dtype.
struct Reduction {
  at::ScalarType as;  // what travels
  ncclDataType_t type;
  ncclRedOp_t op;
};

class NcclCommunicator final : public Communicator {
 public:
  /// Starts NCCL over the ranks of `control`. Collective.
  NcclCommunicator(std::shared_ptr<Communicator> control, std::shared_ptr<Tree> tree)
      : NcclCommunicator(std::move(control), tree, OwnedComm(tree)) {
    const c10::DeviceGuard guard(tree_->device);
    const at::Tensor bytes = at::zeros({NCCL_UNIQUE_ID_BYTES}, at::kByte);
    ncclUniqueId id{};
    // An error of rank 0 alone comes after the broadcast, for which the others wait.
    const ncclResult_t status = rank_ == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
    if (rank_ == 0) std::memcpy(bytes.data_ptr(), id.internal, NCCL_UNIQUE_ID_BYTES);
    control_->broadcast(bytes, 0, Traffic::control).wait();
    std::memcpy(id.internal, bytes.data_ptr(), NCCL_UNIQUE_ID_BYTES);
    call(status, kStart);
    ncclConfig_t config = non_blocking();
    const std::uint64_t noted = note(kStart, Traffic::control, 0);
    call(ncclCommInitRankConfig(comm_.put(), size_, id, rank_, &config), kStart);
    settle(kStart);
    recorder()->complete(noted);
  }

  /// Takes over what NCCL has started for these ranks: nothing where there is one only.
  NcclCommunicator(std::shared_ptr<Communicator> control, std::shared_ptr<Tree> tree,
                   OwnedComm comm)
      : control_(std::move(control)),
        tree_(std::move(tree)),
        comm_(std::move(comm)),
        rank_(control_->rank()),
        size_(control_->size()) {
    share_records(*control_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Handle all_reduce(at::Tensor tensor, ReduceOp op, Traffic traffic) override {
    check_tensor(*this, tensor, kAllReduce, "tensor");
    if (tensor.is_cpu()) return control_->all_reduce(tensor, op, traffic);
    require_device(tensor, kAllReduce);
    if (alone()) return count(traffic, static_cast<std::int64_t>(tensor.nbytes()));
    const Reduction reduction = reduction_of(tensor.scalar_type(), op, kAllReduce);
    const at::Tensor result = tensor.detach();
    const at::Tensor work = as_type(result, reduction.as);
    std::function<void()> finish;
    if (work.data_ptr() != result.data_ptr()) finish = [result, work] { result.copy_(work); };
    return issue(
        kAllReduce, traffic, static_cast<std::int64_t>(result.nbytes()), {result, work},
        [&] {
          if (work.numel() == 0) return;
          call(ncclAllReduce(work.data_ptr(), work.data_ptr(),
                             static_cast<std::size_t>(work.numel()), reduction.type, reduction.op,
                             comm_.get(), tree_->stream),
               kAllReduce);
        },
        std::move(finish));
  }

  Handle broadcast(at::Tensor tensor, int root, Traffic traffic) override {
    check_tensor(*this, tensor, kBroadcast, "tensor");
    check_root(*this, root, kBroadcast);
    if (tensor.is_cpu()) return control_->broadcast(tensor, root, traffic);
    require_device(tensor, kBroadcast);
    if (alone()) return count(traffic, static_cast<std::int64_t>(tensor.nbytes()));
    return issue(kBroadcast, traffic, static_cast<std::int64_t>(tensor.nbytes()), {tensor}, [&] {
      if (tensor.numel() == 0) return;
      call(ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), tensor.nbytes(), ncclInt8, root,
                         comm_.get(), tree_->stream),
           kBroadcast);
    });
  }

  Handle all_gather_rows(at::Tensor send, at::Tensor receive, std::span<const std::int64_t> counts,
                         Traffic traffic) override {
    check_all_gather(*this, send, receive, counts);
    if (send.is_cpu()) return control_->all_gather_rows(send, receive, counts, traffic);
    require_device(send, kAllGather);
    if (alone()) return copy(send, receive, traffic);
    const std::int64_t width = row_bytes(receive);
    const std::int64_t bytes = (size_ - 1) * counts[rank_] * width;
    return issue(kAllGather, traffic, bytes, {send, receive}, [&] {
      const auto* from = static_cast<const char*>(send.data_ptr());
      auto* to = static_cast<char*>(receive.data_ptr());
      if (all_equal(counts)) {
        if (counts[0] * width == 0) return;
        call(ncclAllGather(from, to, static_cast<std::size_t>(counts[0] * width), ncclInt8,
                           comm_.get(), tree_->stream),
             kAllGather);
        return;
      }
      for (int root = 0; root < size_; ++root) {
        const std::int64_t part = counts[root] * width;
        if (part > 0) {
          call(ncclBroadcast(root == rank_ ? from : to, to, static_cast<std::size_t>(part),
                             ncclInt8, root, comm_.get(), tree_->stream),
               kAllGather);
        }
        to += part;
      }
    });
  }

  Handle all_to_all_rows(at::Tensor send, std::span<const std::int64_t> send_counts,
                         at::Tensor receive, std::span<const std::int64_t> receive_counts,
                         Traffic traffic) override {
    check_all_to_all(*this, send, send_counts, receive, receive_counts);
    if (send.is_cpu())
      return control_->all_to_all_rows(send, send_counts, receive, receive_counts, traffic);
    require_device(send, kAllToAll);
    if (alone()) return copy(send, receive, traffic);
    const std::int64_t width = row_bytes(receive);
    const std::int64_t bytes = (send.size(0) - send_counts[rank_]) * width;
    return issue(kAllToAll, traffic, bytes, {send, receive}, [&] {
      const auto* from = static_cast<const char*>(send.data_ptr());
      auto* to = static_cast<char*>(receive.data_ptr());
      for (int peer = 0; peer < size_; ++peer) {
        const std::int64_t out = send_counts[peer] * width, in = receive_counts[peer] * width;
        if (out > 0) {
          call(ncclSend(from, static_cast<std::size_t>(out), ncclInt8, peer, comm_.get(),
                        tree_->stream),
               kAllToAll);
        }
        if (in > 0) {
          call(ncclRecv(to, static_cast<std::size_t>(in), ncclInt8, peer, comm_.get(),
                        tree_->stream),
               kAllToAll);
        }
        from += out;
        to += in;
      }
    });
  }

  Handle reduce_scatter_rows(at::Tensor send, at::Tensor receive,
                             std::span<const std::int64_t> counts, Traffic traffic) override {
    check_reduce_scatter(*this, send, receive, counts);
    if (send.is_cpu()) return control_->reduce_scatter_rows(send, receive, counts, traffic);
    require_device(send, kReduceScatter);
    if (alone()) return copy(send, receive, traffic);
    const Reduction reduction = reduction_of(send.scalar_type(), ReduceOp::sum, kReduceScatter);
    const at::Tensor result = receive.detach();
    const at::Tensor from = as_type(send.detach(), reduction.as);
    const bool converted = from.data_ptr() != send.data_ptr();
    const at::Tensor to = converted ? at::empty_like(result, reduction.as) : result;
    std::function<void()> finish;
    if (converted) finish = [result, to] { result.copy_(to); };
    const std::int64_t bytes = (send.size(0) - counts[rank_]) * row_bytes(send);
    return issue(
        kReduceScatter, traffic, bytes, {from, to, result},
        [&] {
          const std::int64_t width = row_bytes(from);  // in bytes
          const std::int64_t elements = width / static_cast<std::int64_t>(from.element_size());
          const auto* source = static_cast<const char*>(from.data_ptr());
          if (all_equal(counts)) {
            if (counts[0] * width == 0) return;
            call(ncclReduceScatter(source, to.data_ptr(),
                                   static_cast<std::size_t>(counts[0] * elements), reduction.type,
                                   reduction.op, comm_.get(), tree_->stream),
                 kReduceScatter);
            return;
          }
          for (int root = 0; root < size_; ++root) {
            const std::int64_t part = counts[root];
            if (part * width > 0) {
              call(ncclReduce(source, root == rank_ ? to.data_ptr() : nullptr,
                              static_cast<std::size_t>(part * elements), reduction.type,
                              reduction.op, root, comm_.get(), tree_->stream),
                   kReduceScatter);
            }
            source += part * width;
          }
        },
        std::move(finish));
  }

  /// Of the hosts, once every operation issued so far is done.
  void barrier() override {
    require_usable(kBarrier);
    if (tree_->depth > 0) throw CommError("{} on rank {}: inside a group", kBarrier, rank_);
    while (reap(), !tree_->under_way.empty()) {
      check_async(kBarrier);
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    control_->barrier();
  }

  void group_begin() override {
    if (tree_->depth++ > 0) return;
    tree_->launch = std::make_shared<Launch>();
    call(ncclGroupStart(), kGroup);
  }
  void group_end() override { end_group(/*quiet=*/std::uncaught_exceptions() > 0); }

  std::unique_ptr<Communicator> split(int color, int key) override {
    require_usable(kSplit);
    if (tree_->depth > 0) throw CommError("{} on rank {}: inside a group", kSplit, rank_);
    const c10::DeviceGuard guard(tree_->device);
    std::shared_ptr<Communicator> control = control_->split(color, key);
    ncclConfig_t config = non_blocking();
    OwnedComm part(tree_);
    if (alone())
      return std::make_unique<NcclCommunicator>(std::move(control), tree_, std::move(part));
    // A rank alone needs no NCCL. Ranks are in MPI's order, whatever its rule for equal keys.
    const std::uint64_t noted = note(kSplit, Traffic::control, 0);
    call(ncclCommSplit(comm_.get(), control->size() == 1 ? NCCL_SPLIT_NOCOLOR : color,
                       control->rank(), part.put(), &config),
         kSplit);
    settle(kSplit);
    auto child = std::make_unique<NcclCommunicator>(std::move(control), tree_, std::move(part));
    child->settle(kSplit);
    recorder()->complete(noted);
    return child;
  }

 private:
  static constexpr const char* kStart = "start of NCCL";
  static constexpr const char* kGroup = "group of operations";

  class Running;

  [[noreturn]] void fail(const char* operation, const std::string& cause) const {
    if (tree_->failure.empty()) tree_->failure = fmt::format("{}: {}", operation, cause);
    throw CommError("{} failed on rank {} of {} ({}): {}", operation, rank_, size_,
                    tree_->device.str(), cause);
  }

  std::string describe(ncclResult_t status) const {
    const char* last = ncclGetLastError(comm_.get());
    const std::string more = last == nullptr || *last == 0 ? "" : fmt::format(": {}", last);
    return fmt::format("NCCL {}: {}{}", version_text(nccl_version()), ncclGetErrorString(status),
                       more);
  }

  /// Split off as the only rank: its operations are copies, or nothing.
  bool alone() const { return comm_.get() == nullptr; }
  Handle count(Traffic traffic, std::int64_t bytes) {
    TrafficCounter& counter = counter_of(traffic);
    ++counter.operations;
    counter.bytes += bytes;
    return {};
  }
  Handle copy(const at::Tensor& send, const at::Tensor& receive, Traffic traffic) {
    receive.detach().copy_(send.detach());
    return count(traffic, 0);
  }

  /// A call's own result; one in progress is settled when its group ends.
  void call(ncclResult_t status, const char* operation) const {
    if (status != ncclSuccess && status != ncclInProgress) fail(operation, describe(status));
  }

  void require_usable(const char* operation) const {
    if (!tree_->failure.empty())
      throw CommError("{} on rank {}: NCCL failed before ({})", operation, rank_, tree_->failure);
  }

  void require_device(const at::Tensor& tensor, const char* operation) const {
    if (tensor.device() != tree_->device) {
      throw CommError("{} on rank {}: a tensor is on {}, this rank's communicator on {}", operation,
                      rank_, tensor.device().str(), tree_->device.str());
    }
  }

  /// Errors that came up since, of the network for example.
  void check_async(const char* operation) const {
    if (alone()) return;
    ncclResult_t state = ncclSuccess;
    call(ncclCommGetAsyncError(comm_.get(), &state), operation);
    call(state, operation);
  }

  /// Waits until NCCL's own thread has done what was asked for: only then are kernels in the
  /// stream.
  void settle(const char* operation) const {
    if (alone()) return;
    const FlightRecorder::Waiting waiting(*recorder(), recorder()->last());
    const auto start = Clock::now();
    for (std::int64_t polls = 0;; ++polls) {
      ncclResult_t state = ncclSuccess;
      call(ncclCommGetAsyncError(comm_.get(), &state), operation);
      if (state == ncclSuccess) return;
      call(state, operation);
      if (Clock::now() - start > tree_->limit) {
        fail(operation, fmt::format("not issued within {} s; does every rank get here?",
                                    tree_->limit.count()));
      }
      // Most take microseconds; the first one of its kind sets up connections.
      if (polls > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  /// Takes account of what the GPU is through with.
  void reap() const {
    std::deque<std::shared_ptr<Pending>>& all = tree_->under_way;
    while (!all.empty()) {
      Pending& first = *all.front();
      if (!first.launch->launched) return;  // in the open group
      if (!first.launch->done.query()) {
        if (Clock::now() - first.launch->since > tree_->limit) {
          fail(first.name, fmt::format("not complete after {} s; does every rank get here?",
                                       tree_->limit.count()));
        }
        return;
      }
      first.counter->seconds += first.issued.elapsedTime(first.launch->done) / 1000;
      // A stream that has not come to the wait yet finds the operation done.
      if (first.waited && first.waiting.query()) {
        first.counter->exposed_seconds +=
            std::max(0.0, first.waiting.elapsedTime(first.launch->done) / 1000);
      }
      const std::lock_guard lock(tree_->mutex);
      if (!first.completion_noted) recorder()->complete(first.noted);
      all.pop_front();
    }
  }

  Reduction reduction_of(at::ScalarType type, ReduceOp op, const char* operation) const {
    const ncclRedOp_t red = op == ReduceOp::sum ? ncclSum : op == ReduceOp::max ? ncclMax : ncclMin;
    const bool rounds = op == ReduceOp::sum && size_ > 2;
    switch (type) {
      case at::kFloat:
        return {type, ncclFloat32, red};
      case at::kDouble:
        return {type, ncclFloat64, red};
      case at::kBFloat16:
        if (rounds) return {at::kFloat, ncclFloat32, red};
        return {type, ncclBfloat16, red};
      case at::kHalf:
        if (rounds) return {at::kFloat, ncclFloat32, red};
        return {type, ncclFloat16, red};
      case at::kLong:
        return {type, ncclInt64, red};
      case at::kInt:
        return {type, ncclInt32, red};
      case at::kShort:
      case at::kUInt16:
        return {at::kInt, ncclInt32, red};
      case at::kChar:
        return {type, ncclInt8, red};
      case at::kByte:
        return {type, ncclUint8, red};
      case at::kUInt32:
        return {type, ncclUint32, red};
      case at::kUInt64:
        return {type, ncclUint64, red};
      case at::kBool:  // logical or, logical and
        return {at::kByte, ncclUint8, op == ReduceOp::min ? ncclMin : ncclMax};
      default:
        throw CommError("{} on rank {}: tensors of type {} can't be reduced", operation, rank_,
                        at::toString(type));
    }
  }

  /// The tensor itself or its bytes where they serve, else a copy.
  static at::Tensor as_type(const at::Tensor& tensor, at::ScalarType type) {
    return tensor.scalar_type() == at::kBool ? tensor.view(type) : tensor.to(type);
  }

  static bool all_equal(std::span<const std::int64_t> counts) {
    return std::all_of(counts.begin(), counts.end(), [&](auto n) { return n == counts[0]; });
  }

  /// Runs `calls`, which hands operations to NCCL, as a group or as part of the open one.
  /// `finish` runs in wait, its work on the stream that waits.
  Handle issue(const char* name, Traffic traffic, std::int64_t bytes, std::vector<at::Tensor> keep,
               const std::function<void()>& calls, std::function<void()> finish = {});

  void end_group(bool quiet) {
    if (tree_->depth == 0) throw CommError("end of a group on rank {}: none is open", rank_);
    if (--tree_->depth > 0) return;
    const c10::DeviceGuard guard(tree_->device);
    const std::shared_ptr<Launch> launch = std::move(tree_->launch);
    const std::vector<NcclCommunicator*> members = std::move(tree_->in_group);
    tree_->in_group.clear();
    const ncclResult_t status = ncclGroupEnd();
    try {
      call(status, kGroup);
      require_usable(kGroup);
      for (const NcclCommunicator* member : members) member->settle(kGroup);
      const std::lock_guard lock(tree_->mutex);
      launch->done.record(tree_->stream);
      launch->launched = true;
    } catch (const CommError&) {
      if (!quiet) throw;
    }
  }

  std::shared_ptr<Communicator> control_;
  std::shared_ptr<Tree> tree_;
  OwnedComm comm_;
  int rank_, size_;
};

class NcclCommunicator::Running final : public Handle::Operation {
 public:
  Running(const NcclCommunicator& owner, std::shared_ptr<Pending> pending,
          std::function<void()> finish)
      : owner_(owner),
        pending_(std::move(pending)),
        finish_(std::move(finish)),
        issuing_(c10::cuda::getCurrentCUDAStream(owner.tree_->device.index())) {}

  void wait() override {
    if (pending_->waited) return;
    const Launch& launch = *pending_->launch;
    if (!launch.launched) {
      throw CommError("{} on rank {}: waited for inside its group", pending_->name, owner_.rank_);
    }
    const c10::DeviceGuard guard(owner_.tree_->device);
    owner_.check_async(pending_->name);
    const auto current = c10::cuda::getCurrentCUDAStream(owner_.tree_->device.index());
    pending_->waiting.record(current);
    launch.done.block(current);
    // Whose memory the tensors are, in most cases: it may be used anew once they are gone.
    if (current != issuing_) launch.done.block(issuing_);
    pending_->waited = true;
    owner_.reap();
    if (finish_) finish_();
    pending_->keep.clear();
  }

 private:
  const NcclCommunicator& owner_;
  std::shared_ptr<Pending> pending_;
  std::function<void()> finish_;
  c10::cuda::CUDAStream issuing_;
};

Handle NcclCommunicator::issue(const char* name, Traffic traffic, std::int64_t bytes,
                               std::vector<at::Tensor> keep, const std::function<void()>& calls,
                               std::function<void()> finish) {
  require_usable(name);
  const ProfileRange range(name);
  const c10::DeviceGuard guard(tree_->device);
  reap();
  count(traffic, bytes);
  group_begin();
  auto pending =
      std::make_shared<Pending>(Pending{name, note(name, traffic, bytes), &counter_of(traffic),
                                        counters(), tree_->launch, std::move(keep)});
  auto running = std::make_unique<Running>(*this, pending, std::move(finish));
  pending->issued.record(c10::cuda::getCurrentCUDAStream(tree_->device.index()));
  pending->issued.block(tree_->stream);
  {
    const std::lock_guard lock(tree_->mutex);
    tree_->under_way.push_back(std::move(pending));
  }
  if (std::find(tree_->in_group.begin(), tree_->in_group.end(), this) == tree_->in_group.end())
    tree_->in_group.push_back(this);
  try {
    calls();
  } catch (...) {
    end_group(/*quiet=*/true);
    throw;
  }
  end_group(/*quiet=*/false);
  return Handle(std::move(running));
}

}  // namespace

int nccl_version() {
  int version = 0;
  return ncclGetVersion(&version) == ncclSuccess ? version : 0;
}

std::string why_no_nccl() {
  const int version = nccl_version();
  if (version >= NCCL_VERSION_CODE) return "";
  return fmt::format("NCCL {} was loaded, but the program was built for {} (LD_LIBRARY_PATH?)",
                     version_text(version), version_text(NCCL_VERSION_CODE));
}

std::unique_ptr<Communicator> make_nccl_communicator(std::shared_ptr<Communicator> control,
                                                     at::Device device,
                                                     std::chrono::seconds limit) {
  if (const std::string reason = why_no_nccl(); !reason.empty())
    throw ConfigError("--comm nccl: {}", reason);
  if (!device.is_cuda()) throw ConfigError("--comm nccl: ranks compute on {}", device.str());
  const auto stream = c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index());
  const auto tree = std::make_shared<Tree>(device, stream, limit);
  const std::shared_ptr<FlightRecorder> recorder = control->recorder();
  // The recorder outlives its probe, which it owns.
  recorder->set_device_probe([weak = std::weak_ptr(tree), recorder = recorder.get()] {
    const std::shared_ptr<Tree> alive = weak.lock();
    return alive ? alive->note_completions(*recorder) : 0;
  });
  return std::make_unique<NcclCommunicator>(std::move(control), tree);
}

}  // namespace graphlora
