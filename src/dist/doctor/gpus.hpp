// GPUs, and NCCL between them.
#pragma once
#include <array>
#include <span>
#include <string>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

/// A rank's GPU.
struct GpuUse {
  std::string why_none = {};              ///< empty where it has one
  std::array<std::int64_t, 2> uuid = {};  ///< of the GPU it takes
};

/// This rank's, the `local_rank`-th of its host. Local.
GpuUse own_gpu_use(int local_rank);
/// Of every rank. Collective.
std::vector<GpuUse> gather_gpu_use(Communicator& world, const GpuUse& own);

/// Checks of group "GPU": "devices" (every rank has one, or none has; `wanted`: a rank without is a
/// failure) and "sharing" (each rank has its own).
std::vector<Check> check_gpus(std::span<const RankPlace> places, std::span<const GpuUse> uses,
                              bool wanted);

/// NCCL for these ranks.
struct NcclState {
  int version = 0;       ///< as nccl_version(); 0: not in this program
  std::string why_none;  ///< why this program can't use it
  bool used = false;     ///< the ranks' communicator goes through it
};

/// Check "NCCL", "use". `gpus_of_their_own`: every rank has a GPU that no other rank takes.
Check check_nccl(const NcclState& state, bool gpus_of_their_own, const std::string& comm);

/// Whether every rank has a GPU that no other rank takes.
bool have_own_gpus(std::span<const GpuUse> uses);

}  // namespace graphlora::doctor
