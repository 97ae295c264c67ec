// The communicator over NCCL, for tensors on GPUs. These functions are there in every build;
// without NCCL they say why (no_nccl.cpp), so that callers need no #ifdef.
#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "dist/communicator.hpp"

namespace graphlora {

/// Why this program can't use NCCL, in one line; empty where it can.
std::string why_no_nccl();

/// The loaded NCCL's version as it numbers itself (2.28.9 is 22809); 0 without NCCL.
int nccl_version();

/// How long NCCL may take to start, to issue an operation and to complete it, before that is an
/// error.
inline constexpr std::chrono::seconds kNcclLimit{600};

/// A communicator over the ranks of `control`, whose GPU is `device`: one GPU a rank, or NCCL's
/// multi-rank mode (NCCL 2.30). Collective. Throws ConfigError without NCCL, CommError where NCCL
/// does not start within `limit`.
///
/// - CUDA tensors go through NCCL, CPU tensors (counts, scalars, texts) through `control`, which
///   also carries the bootstrap, barriers and the counters of both.
/// - All operations of it and of what is split from it run on one stream, in the order of issue.
///   They wait for the stream that is current when they are issued; Handle::wait makes the then
///   current stream wait for them and does not block the host.
/// - Sums of bf16 and fp16 are rounded once, as if added in fp32. NCCL itself adds pairwise in the
///   tensor's own type, which is that for two ranks; beyond, fp32 travels (twice the bytes; the
///   counters count the tensor's own).
/// - NCCL's communicators are non-blocking: starting one and issuing to one have the time limit.
///   Each wait, issue and barrier looks for errors of the network and for an operation that has not
///   completed within `limit`. A host blocked in CUDA itself (item(), a synchronization) does not.
/// - After the first error every call throws. On errors NCCL is aborted, at the end it is closed.
std::unique_ptr<Communicator> make_nccl_communicator(std::shared_ptr<Communicator> control,
                                                     at::Device device,
                                                     std::chrono::seconds limit = kNcclLimit);

}  // namespace graphlora
