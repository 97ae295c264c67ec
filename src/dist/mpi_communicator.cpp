#include "dist/mpi_communicator.hpp"

#include <chrono>
#include <cstring>
#include <exception>
#include <numeric>

#include "core/error.hpp"
#include "core/profile_range.hpp"
#include "dist/check_tensors.hpp"
#include "dist/flight_recorder.hpp"
#include "dist/job.hpp"

namespace graphlora {
namespace {

using Clock = std::chrono::steady_clock;

// The least MPI_TAG_UB that the standard grants.
constexpr int kTags = 32768;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string error_text(int status) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(status, text, &length) != MPI_SUCCESS) return fmt::format("code {}", status);
  return std::string(text, static_cast<std::size_t>(length));
}

/// The tensor where MPI can reach it: itself or, for one on a GPU, pinned memory, `filled` by the
/// current stream with the tensor's values (which this waits for).
at::Tensor on_host(const at::Tensor& tensor, bool filled) {
  if (tensor.is_cpu()) return tensor;
  const at::Tensor host =
      at::empty(tensor.sizes(), at::dtype(tensor.scalar_type()).pinned_memory(true));
  if (filled) host.copy_(tensor);
  return host;
}

/// The way back: by the current stream, not waited for.
void from_host(const at::Tensor& host, const at::Tensor& tensor) {
  if (!tensor.is_cpu()) tensor.copy_(host, /*non_blocking=*/true);
}

bool is_half(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }

/// MPI_DATATYPE_NULL for types that have no reduction.
MPI_Datatype reduction_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kLong:
      return MPI_INT64_T;
    case at::kInt:
      return MPI_INT32_T;
    case at::kShort:
      return MPI_INT16_T;
    case at::kChar:
      return MPI_INT8_T;
    case at::kByte:
      return MPI_UINT8_T;
    case at::kUInt16:
      return MPI_UINT16_T;
    case at::kUInt32:
      return MPI_UINT32_T;
    case at::kUInt64:
      return MPI_UINT64_T;
    case at::kBool:
      return MPI_C_BOOL;
    default:
      return MPI_DATATYPE_NULL;
  }
}

/// An MPI_User_function: inout += in, rounded once.
template <at::ScalarType kType>
void add_halves(void* in, void* inout, int* count, MPI_Datatype* /*type*/) {
  at::from_blob(inout, {*count}, kType).add_(at::from_blob(in, {*count}, kType));
}

/// The members of a communicator as ranks of MPI_COMM_WORLD.
std::vector<int> world_ranks(MPI_Comm communicator) {
  int size = 0;
  MPI_Comm_size(communicator, &size);
  std::vector<int> own(static_cast<std::size_t>(size)), ranks(own.size(), -1);
  std::iota(own.begin(), own.end(), 0);
  MPI_Group group = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
  MPI_Comm_group(communicator, &group);
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_translate_ranks(group, size, own.data(), world, ranks.data());
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  return ranks;
}

/// Ranks with which rows are exchanged, one bit each; 0 where 64 bits are too few.
std::uint64_t partners(int rank, std::span<const std::int64_t> send_counts,
                       std::span<const std::int64_t> receive_counts) {
  std::uint64_t bits = 0;
  if (send_counts.size() > 64) return bits;
  for (std::size_t peer = 0; peer < send_counts.size(); ++peer) {
    if (static_cast<int>(peer) == rank || send_counts[peer] + receive_counts[peer] > 0)
      bits |= std::uint64_t{1} << peer;
  }
  return bits;
}

MPI_Op reduction(ReduceOp op, at::ScalarType type) {
  if (type == at::kBool) return op == ReduceOp::min ? MPI_LAND : MPI_LOR;
  switch (op) {
    case ReduceOp::sum:
      return MPI_SUM;
    case ReduceOp::max:
      return MPI_MAX;
    case ReduceOp::min:
      return MPI_MIN;
  }
  return MPI_OP_NULL;
}

}  // namespace

/// Requests under way, with the tensors they read and write.
class MpiCommunicator::Running final : public Handle::Operation {
 public:
  Running(MpiCommunicator& owner, const char* name, TrafficCounter& counter, std::uint64_t noted,
          std::vector<at::Tensor> keep)
      : owner_(owner), name_(name), counter_(counter), noted_(noted), keep_(std::move(keep)) {}

  MPI_Request* add(std::int64_t expected_bytes = -1) {
    requests_.push_back(MPI_REQUEST_NULL);
    expected_.push_back(expected_bytes);
    return &requests_.back();
  }
  /// What turns the received data into the result.
  void then(std::function<void()> finish) { finish_ = std::move(finish); }

  void wait() override {
    if (done_) return;
    done_ = true;
    const ProfileRange range(name_);
    const auto before = Clock::now();
    std::vector<MPI_Status> statuses(requests_.size());
    int status = MPI_SUCCESS;
    {
      const FlightRecorder::Waiting waiting(*owner_.recorder(), noted_);
      status = MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(),
                           statuses.empty() ? MPI_STATUSES_IGNORE : statuses.data());
    }
    if (status == MPI_SUCCESS) owner_.recorder()->complete(noted_);
    counter_.exposed_seconds += seconds_since(before);
    counter_.seconds += seconds_since(start_);
    for (const MPI_Status& one : statuses) {
      if (status == MPI_ERR_IN_STATUS && one.MPI_ERROR != MPI_SUCCESS)
        owner_.check(one.MPI_ERROR, name_);
    }
    owner_.check(status, name_);
    for (std::size_t i = 0; i < statuses.size(); ++i) {
      int bytes = 0;
      if (expected_[i] < 0) continue;
      MPI_Get_count(&statuses[i], MPI_BYTE, &bytes);
      if (bytes != expected_[i]) {
        throw CommError("{}: rank {} expected {} bytes from rank {}, received {}", name_,
                        owner_.rank_, expected_[i], statuses[i].MPI_SOURCE, bytes);
      }
    }
    if (finish_) finish_();
    keep_.clear();
  }

  /// Whether MPI has no more use for the tensors.
  bool complete() {
    int all = 0;
    return done_ || (MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all,
                                 MPI_STATUSES_IGNORE) == MPI_SUCCESS &&
                     all != 0);
  }

  // An exception on this rank may mean that the others never come: waiting would hide it, and
  // freeing what MPI still writes to would corrupt memory, so the tensors live on until the process
  // ends.
  ~Running() override {
    if (!complete()) {
      static_cast<void>(std::make_unique<std::vector<at::Tensor>>(std::move(keep_)).release());
    }
  }

 private:
  MpiCommunicator& owner_;
  const char* name_;
  TrafficCounter& counter_;
  std::uint64_t noted_;
  std::vector<at::Tensor> keep_;
  std::vector<MPI_Request> requests_;
  std::vector<std::int64_t> expected_;
  std::function<void()> finish_;
  Clock::time_point start_ = Clock::now();
  bool done_ = false;
};

MpiCommunicator::MpiCommunicator(MPI_Comm communicator, std::int64_t max_count,
                                 std::shared_ptr<FlightRecorder> recorder, const std::string& axis)
    : communicator_(communicator), max_count_(max_count) {
  record_in(std::move(recorder), axis, world_ranks(communicator_));
  MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(communicator_, &rank_);
  MPI_Comm_size(communicator_, &size_);
  MPI_Op_create(add_halves<at::kBFloat16>, /*commute=*/1, &add_bfloat16_);
  MPI_Op_create(add_halves<at::kHalf>, /*commute=*/1, &add_half_);
}

MpiCommunicator::~MpiCommunicator() {
  int finalized = 0;
  if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) return;
  MPI_Op_free(&add_bfloat16_);
  MPI_Op_free(&add_half_);
  MPI_Comm_free(&communicator_);
}

void MpiCommunicator::check(int status, const char* operation) const {
  if (status == MPI_SUCCESS) return;
  throw CommError("{} failed on rank {} of {}: {}", operation, rank_, size_, error_text(status));
}

void MpiCommunicator::in_pieces(std::int64_t total,
                                const std::function<void(std::int64_t, int)>& part) const {
  for (std::int64_t first = 0; first < total; first += max_count_)
    part(first, static_cast<int>(std::min(max_count_, total - first)));
}

Handle MpiCommunicator::all_reduce(at::Tensor tensor, ReduceOp op, Traffic traffic) {
  const ProfileRange range(kAllReduce);
  check_tensor(*this, tensor, kAllReduce, "tensor");
  const at::ScalarType given = tensor.scalar_type();
  // Of two ranks the sum is one addition, and half the bytes travel; of more it is taken in fp32.
  const bool as_halves = is_half(given) && op == ReduceOp::sum && size_ == 2;
  const at::ScalarType reduced = is_half(given) && !as_halves ? at::kFloat : given;
  const MPI_Datatype type = as_halves ? MPI_UINT16_T : reduction_type(reduced);
  const MPI_Op operation = !as_halves               ? reduction(op, reduced)
                           : given == at::kBFloat16 ? add_bfloat16_
                                                    : add_half_;
  if (type == MPI_DATATYPE_NULL) {
    throw CommError("{} on rank {}: tensors of type {} can't be reduced", kAllReduce, rank_,
                    at::toString(given));
  }
  TrafficCounter& counter = counter_of(traffic);
  ++counter.operations;
  counter.bytes += static_cast<std::int64_t>(tensor.nbytes());
  if (size_ == 1 && tensor.is_cuda()) return {};
  const at::Tensor result = tensor.detach();
  const at::Tensor host = on_host(result, /*filled=*/true);
  const at::Tensor work = host.to(reduced);
  auto running = std::make_unique<Running>(
      *this, kAllReduce, counter,
      note(kAllReduce, traffic, static_cast<std::int64_t>(tensor.nbytes())),
      std::vector{result, host, work});
  auto* data = static_cast<char*>(work.data_ptr());
  in_pieces(work.numel(), [&](std::int64_t first, int count) {
    check(MPI_Iallreduce(MPI_IN_PLACE, data + first * work.element_size(), count, type, operation,
                         communicator_, running->add()),
          kAllReduce);
  });
  if (!work.is_same(result)) {
    running->then([result, host, work] {
      if (!work.is_same(host)) host.copy_(work);
      from_host(host, result);
    });
  }
  return Handle(std::move(running));
}

Handle MpiCommunicator::broadcast(at::Tensor tensor, int root, Traffic traffic) {
  const ProfileRange range(kBroadcast);
  check_tensor(*this, tensor, kBroadcast, "tensor");
  check_root(*this, root, kBroadcast);
  TrafficCounter& counter = counter_of(traffic);
  ++counter.operations;
  counter.bytes += static_cast<std::int64_t>(tensor.nbytes());
  if (size_ == 1 && tensor.is_cuda()) return {};
  const at::Tensor result = tensor.detach();
  const at::Tensor host = on_host(result, /*filled=*/rank_ == root);
  const std::uint64_t bits = size_ > 64 ? 0 : std::uint64_t{1} << root | std::uint64_t{1} << rank_;
  auto running = std::make_unique<Running>(
      *this, kBroadcast, counter,
      note(kBroadcast, traffic, static_cast<std::int64_t>(tensor.nbytes()), bits),
      std::vector{result, host});
  auto* data = static_cast<char*>(host.data_ptr());
  in_pieces(static_cast<std::int64_t>(host.nbytes()), [&](std::int64_t first, int count) {
    check(MPI_Ibcast(data + first, count, MPI_BYTE, root, communicator_, running->add()),
          kBroadcast);
  });
  if (rank_ != root) running->then([result, host] { from_host(host, result); });
  return Handle(std::move(running));
}

Handle MpiCommunicator::exchange(const char* name, at::Tensor send,
                                 std::span<const std::int64_t> send_first,
                                 std::span<const std::int64_t> send_counts, at::Tensor receive,
                                 std::span<const std::int64_t> receive_counts, Traffic traffic) {
  const ProfileRange range(name);
  const std::int64_t width = row_bytes(receive);
  TrafficCounter& counter = counter_of(traffic);
  ++counter.operations;
  const at::Tensor result = receive.detach();
  if (size_ == 1 && result.is_cuda()) {
    result.copy_(send.detach());
    return {};
  }
  const at::Tensor source = on_host(send.detach(), /*filled=*/true);
  const at::Tensor target = on_host(result, /*filled=*/false);
  std::int64_t sent = 0;
  for (int peer = 0; peer < size_; ++peer) sent += peer == rank_ ? 0 : send_counts[peer] * width;
  counter.bytes += sent;
  auto running = std::make_unique<Running>(
      *this, name, counter, note(name, traffic, sent, partners(rank_, send_counts, receive_counts)),
      std::vector{source, target, result});
  const int tag = next_tag_;
  next_tag_ = (next_tag_ + 1) % kTags;
  const auto* from = static_cast<const char*>(source.data_ptr());
  auto* to = static_cast<char*>(target.data_ptr());

  std::int64_t first = 0;
  for (int peer = 0; peer < size_; ++peer) {
    char* rows = to + first * width;
    if (peer == rank_) {
      if (receive_counts[peer] * width > 0)
        std::memcpy(rows, from + send_first[peer] * width, receive_counts[peer] * width);
    } else {
      in_pieces(receive_counts[peer] * width, [&](std::int64_t begin, int bytes) {
        check(
            MPI_Irecv(rows + begin, bytes, MPI_BYTE, peer, tag, communicator_, running->add(bytes)),
            name);
      });
    }
    first += receive_counts[peer];
  }
  // Each rank starts with its right neighbour, so that they don't all send to the same one at once.
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + step) % size_;
    const char* rows = from + send_first[peer] * width;
    in_pieces(send_counts[peer] * width, [&](std::int64_t begin, int bytes) {
      check(MPI_Isend(rows + begin, bytes, MPI_BYTE, peer, tag, communicator_, running->add()),
            name);
    });
  }
  if (!target.is_same(result)) running->then([target, result] { from_host(target, result); });
  return Handle(std::move(running));
}

Handle MpiCommunicator::all_gather_rows(at::Tensor send, at::Tensor receive,
                                        std::span<const std::int64_t> counts, Traffic traffic) {
  check_all_gather(*this, send, receive, counts);
  const std::vector<std::int64_t> send_first(size_, 0), send_counts(size_, counts[rank_]);
  return exchange(kAllGather, send, send_first, send_counts, receive, counts, traffic);
}

Handle MpiCommunicator::all_to_all_rows(at::Tensor send, std::span<const std::int64_t> send_counts,
                                        at::Tensor receive,
                                        std::span<const std::int64_t> receive_counts,
                                        Traffic traffic) {
  check_all_to_all(*this, send, send_counts, receive, receive_counts);
  std::vector<std::int64_t> send_first(size_, 0);
  std::exclusive_scan(send_counts.begin(), send_counts.end(), send_first.begin(), std::int64_t{0});
  return exchange(kAllToAll, send, send_first, send_counts, receive, receive_counts, traffic);
}

Handle MpiCommunicator::reduce_scatter_rows(at::Tensor send, at::Tensor receive,
                                            std::span<const std::int64_t> counts, Traffic traffic) {
  const ProfileRange range(kReduceScatter);
  check_reduce_scatter(*this, send, receive, counts);
  const at::ScalarType given = send.scalar_type();
  const at::ScalarType reduced = is_half(given) ? at::kFloat : given;
  const MPI_Datatype type = reduction_type(reduced);
  if (type == MPI_DATATYPE_NULL) {
    throw CommError("{} on rank {}: tensors of type {} can't be reduced", kReduceScatter, rank_,
                    at::toString(given));
  }
  TrafficCounter& counter = counter_of(traffic);
  ++counter.operations;
  const std::int64_t sent = (send.size(0) - counts[rank_]) * row_bytes(send);
  counter.bytes += sent;
  const at::Tensor result = receive.detach();
  if (size_ == 1 && result.is_cuda()) {
    result.copy_(send.detach());
    return {};
  }
  const at::Tensor from = on_host(send.detach(), /*filled=*/true).to(reduced);
  const at::Tensor host = on_host(result, /*filled=*/false);
  const at::Tensor to = reduced == given ? host : at::empty_like(host, reduced);
  auto running =
      std::make_unique<Running>(*this, kReduceScatter, counter, note(kReduceScatter, traffic, sent),
                                std::vector{from, host, to, result});
  const auto* source = static_cast<const char*>(from.data_ptr());
  auto* target = static_cast<char*>(to.data_ptr());
  const std::int64_t width = row_bytes(from);
  const auto item = static_cast<std::int64_t>(from.element_size());
  const MPI_Op op = reduction(ReduceOp::sum, reduced);
  std::int64_t row = 0;
  for (int root = 0; root < size_; ++root) {
    in_pieces(counts[root] * width / item, [&](std::int64_t first, int count) {
      check(MPI_Ireduce(source + row * width + first * item,
                        root == rank_ ? target + first * item : nullptr, count, type, op, root,
                        communicator_, running->add()),
            kReduceScatter);
    });
    row += counts[root];
  }
  if (!to.is_same(result)) {
    running->then([host, to, result] {
      if (!to.is_same(host)) host.copy_(to);
      from_host(host, result);
    });
  }
  return Handle(std::move(running));
}

void MpiCommunicator::blocking(const char* name, const std::function<int()>& call) const {
  const std::uint64_t noted = note(name, Traffic::control, 0);
  int status = MPI_SUCCESS;
  {
    const FlightRecorder::Waiting waiting(*recorder(), noted);
    status = call();
  }
  check(status, name);
  recorder()->complete(noted);
}

void MpiCommunicator::barrier() {
  blocking(kBarrier, [&] { return MPI_Barrier(communicator_); });
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key) {
  MPI_Comm part = MPI_COMM_NULL;
  blocking(kSplit, [&] { return MPI_Comm_split(communicator_, color, key, &part); });
  return std::make_unique<MpiCommunicator>(part, max_count_, recorder(), "part");
}

std::shared_ptr<Communicator> make_mpi_world(std::int64_t max_count,
                                             std::shared_ptr<FlightRecorder> recorder) {
  MPI_Comm world = MPI_COMM_NULL;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  const int status = MPI_Comm_dup(MPI_COMM_WORLD, &world);
  if (status != MPI_SUCCESS)
    throw CommError("MPI_COMM_WORLD can't be duplicated: {}", error_text(status));
  if (!recorder) recorder = std::make_shared<FlightRecorder>();
  return std::make_shared<MpiCommunicator>(world, max_count, std::move(recorder), "world");
}

}  // namespace graphlora
