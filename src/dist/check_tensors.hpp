// What every communicator demands of its arguments. All throw CommError that names operation and
// rank.
#pragma once
#include <span>

#include "dist/communicator.hpp"

namespace graphlora {

/// Defined, contiguous, on the CPU or a GPU. `role`: what messages call it.
void check_tensor(const Communicator& communicator, const at::Tensor& tensor, const char* operation,
                  const char* role);

/// A tensor whose rows are the sum of `counts`, one count a rank.
void check_rows(const Communicator& communicator, const at::Tensor& tensor,
                std::span<const std::int64_t> counts, const char* operation, const char* role);

/// Same device, dtype and shape of a row.
void check_same_rows(const Communicator& communicator, const at::Tensor& send,
                     const at::Tensor& receive, const char* operation);

/// `root` is a rank.
void check_root(const Communicator& communicator, int root, const char* operation);

/// The arguments of the operations on rows, as communicator.hpp states them.
void check_all_gather(const Communicator& communicator, const at::Tensor& send,
                      const at::Tensor& receive, std::span<const std::int64_t> counts);
void check_all_to_all(const Communicator& communicator, const at::Tensor& send,
                      std::span<const std::int64_t> send_counts, const at::Tensor& receive,
                      std::span<const std::int64_t> receive_counts);
void check_reduce_scatter(const Communicator& communicator, const at::Tensor& send,
                          const at::Tensor& receive, std::span<const std::int64_t> counts);

inline constexpr const char* kAllReduce = "all-reduce";
inline constexpr const char* kBroadcast = "broadcast";
inline constexpr const char* kAllGather = "all-gather of rows";
inline constexpr const char* kAllToAll = "all-to-all of rows";
inline constexpr const char* kReduceScatter = "reduce-scatter of rows";
inline constexpr const char* kBarrier = "barrier";
inline constexpr const char* kSplit = "split";

/// Bytes of one row of a tensor.
std::int64_t row_bytes(const at::Tensor& rows);

}  // namespace graphlora
