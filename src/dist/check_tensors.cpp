#include "dist/check_tensors.hpp"

#include "core/error.hpp"

namespace graphlora {

void check_tensor(const Communicator& communicator, const at::Tensor& tensor, const char* operation,
                  const char* role) {
  const int rank = communicator.rank();
  if (!tensor.defined())
    throw CommError("{} on rank {}: the {} is undefined", operation, rank, role);
  if (!tensor.is_cpu() && !tensor.is_cuda()) {
    throw CommError("{} on rank {}: the {} is on {}; only CPU and CUDA tensors can be sent",
                    operation, rank, role, tensor.device().str());
  }
  if (tensor.layout() != at::kStrided || !tensor.is_contiguous())
    throw CommError("{} on rank {}: the {} is not contiguous", operation, rank, role);
}

void check_rows(const Communicator& communicator, const at::Tensor& tensor,
                std::span<const std::int64_t> counts, const char* operation, const char* role) {
  const int rank = communicator.rank(), size = communicator.size();
  check_tensor(communicator, tensor, operation, role);
  if (tensor.dim() < 1)
    throw CommError("{} on rank {}: the {} has no rows (it is a scalar)", operation, rank, role);
  if (counts.size() != static_cast<std::size_t>(size))
    throw CommError("{} on rank {}: {} counts for {} ranks", operation, rank, counts.size(), size);
  std::int64_t rows = 0;
  for (const std::int64_t count : counts) {
    if (count < 0) throw CommError("{} on rank {}: a negative count of rows", operation, rank);
    rows += count;
  }
  if (tensor.size(0) != rows) {
    throw CommError("{} on rank {}: the {} has {} rows, its counts add up to {}", operation, rank,
                    role, tensor.size(0), rows);
  }
}

void check_same_rows(const Communicator& communicator, const at::Tensor& send,
                     const at::Tensor& receive, const char* operation) {
  const int rank = communicator.rank();
  if (send.scalar_type() != receive.scalar_type() ||
      send.sizes().slice(1) != receive.sizes().slice(1)) {
    throw CommError("{} on rank {}: rows of type {} and shape {} are sent, of {} and {} received",
                    operation, rank, at::toString(send.scalar_type()),
                    fmt::format("[{}]", fmt::join(send.sizes().slice(1), ", ")),
                    at::toString(receive.scalar_type()),
                    fmt::format("[{}]", fmt::join(receive.sizes().slice(1), ", ")));
  }
  if (send.device() != receive.device()) {
    throw CommError("{} on rank {}: rows on {} are sent, received on {}", operation, rank,
                    send.device().str(), receive.device().str());
  }
}

void check_root(const Communicator& communicator, int root, const char* operation) {
  if (root < 0 || root >= communicator.size()) {
    throw CommError("{} on rank {}: no rank {} among {}", operation, communicator.rank(), root,
                    communicator.size());
  }
}

void check_all_gather(const Communicator& communicator, const at::Tensor& send,
                      const at::Tensor& receive, std::span<const std::int64_t> counts) {
  check_rows(communicator, receive, counts, kAllGather, "received tensor");
  check_tensor(communicator, send, kAllGather, "sent tensor");
  if (send.dim() < 1)
    throw CommError("{} on rank {}: the sent tensor has no rows (it is a scalar)", kAllGather,
                    communicator.rank());
  check_same_rows(communicator, send, receive, kAllGather);
  if (send.size(0) != counts[communicator.rank()]) {
    throw CommError("{} on rank {}: {} rows are sent, {} announced", kAllGather,
                    communicator.rank(), send.size(0), counts[communicator.rank()]);
  }
}

void check_all_to_all(const Communicator& communicator, const at::Tensor& send,
                      std::span<const std::int64_t> send_counts, const at::Tensor& receive,
                      std::span<const std::int64_t> receive_counts) {
  check_rows(communicator, send, send_counts, kAllToAll, "sent tensor");
  check_rows(communicator, receive, receive_counts, kAllToAll, "received tensor");
  check_same_rows(communicator, send, receive, kAllToAll);
  const int rank = communicator.rank();
  if (send_counts[rank] != receive_counts[rank]) {
    throw CommError("{} on rank {}: {} rows for itself, {} expected", kAllToAll, rank,
                    send_counts[rank], receive_counts[rank]);
  }
}

void check_reduce_scatter(const Communicator& communicator, const at::Tensor& send,
                          const at::Tensor& receive, std::span<const std::int64_t> counts) {
  check_rows(communicator, send, counts, kReduceScatter, "sent tensor");
  check_tensor(communicator, receive, kReduceScatter, "received tensor");
  if (receive.dim() < 1)
    throw CommError("{} on rank {}: the received tensor has no rows (it is a scalar)",
                    kReduceScatter, communicator.rank());
  check_same_rows(communicator, send, receive, kReduceScatter);
  if (receive.size(0) != counts[communicator.rank()]) {
    throw CommError("{} on rank {}: room for {} rows, {} announced", kReduceScatter,
                    communicator.rank(), receive.size(0), counts[communicator.rank()]);
  }
}

std::int64_t row_bytes(const at::Tensor& rows) {
  std::int64_t elements = 1;
  for (std::int64_t d = 1; d < rows.dim(); ++d) elements *= rows.size(d);
  return elements * static_cast<std::int64_t>(rows.element_size());
}

}  // namespace graphlora
