// The communicator over MPI. It knows CPU memory only: tensors on a GPU travel by way of pinned
// memory, so that it needs no MPI with CUDA and several ranks can share a GPU.
#pragma once
#include <mpi.h>

#include <functional>
#include <string>

#include "dist/communicator.hpp"

namespace graphlora {

/// Reductions and broadcasts are MPI_I* collectives; row exchanges are non-blocking messages
/// between the pairs of ranks that have rows for each other. Nothing is sent for empty tensors and
/// zero counts. All dtypes move; reductions know every real dtype (bf16 and fp16 are summed in
/// fp32, bool as logical or and and). Issuing an operation on CUDA tensors waits for the current
/// stream; its result is copied back by the stream that is current in wait. An operation's handle
/// must not outlive its communicator.
class MpiCommunicator final : public Communicator {
 public:
  /// Elements (of messages: bytes) handed to one MPI call at most; more is cut into pieces. Tests
  /// lower it.
  static constexpr std::int64_t kMaxCount = std::int64_t{1} << 30;

  /// Takes ownership of `communicator`, which must not be a predefined one. Operations are noted in
  /// `recorder`, as ones of the axis `axis`.
  MpiCommunicator(MPI_Comm communicator, std::int64_t max_count,
                  std::shared_ptr<FlightRecorder> recorder, const std::string& axis);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Handle all_reduce(at::Tensor tensor, ReduceOp op, Traffic traffic) override;
  Handle broadcast(at::Tensor tensor, int root, Traffic traffic) override;
  Handle all_gather_rows(at::Tensor send, at::Tensor receive, std::span<const std::int64_t> counts,
                         Traffic traffic) override;
  Handle all_to_all_rows(at::Tensor send, std::span<const std::int64_t> send_counts,
                         at::Tensor receive, std::span<const std::int64_t> receive_counts,
                         Traffic traffic) override;
  Handle reduce_scatter_rows(at::Tensor send, at::Tensor receive,
                             std::span<const std::int64_t> counts, Traffic traffic) override;
  void barrier() override;
  void group_begin() override {}
  void group_end() override {}
  std::unique_ptr<Communicator> split(int color, int key) override;

 private:
  class Running;

  void check(int status, const char* operation) const;
  /// Notes `call`, and that this rank is blocked in it.
  void blocking(const char* name, const std::function<int()>& call) const;
  /// Sends send_counts[p] rows from row send_first[p] on to every rank p.
  Handle exchange(const char* name, at::Tensor send, std::span<const std::int64_t> send_first,
                  std::span<const std::int64_t> send_counts, at::Tensor receive,
                  std::span<const std::int64_t> receive_counts, Traffic traffic);
  /// Calls `part(first, count)` for pieces of [0, total) of at most max_count_.
  void in_pieces(std::int64_t total, const std::function<void(std::int64_t, int)>& part) const;

  MPI_Comm communicator_;
  MPI_Op add_bfloat16_ = MPI_OP_NULL, add_half_ = MPI_OP_NULL;
  std::int64_t max_count_;
  int rank_ = 0, size_ = 1;
  int next_tag_ = 0;
};

}  // namespace graphlora
