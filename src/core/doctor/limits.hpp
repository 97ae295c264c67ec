// Resource limits of this process (ulimit), against what a training run needs.
#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/doctor/check.hpp"

namespace graphlora::doctor {

inline constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

/// Soft limits; kUnlimited where there is none.
struct ProcessLimits {
  std::uint64_t locked_memory = kUnlimited;  ///< bytes
  std::uint64_t open_files = kUnlimited;     ///< number
  std::uint64_t stack = kUnlimited;          ///< bytes
  std::uint64_t address_space = kUnlimited;  ///< bytes
  std::uint64_t core_file = 0;               ///< bytes
};

/// Of this process, now.
ProcessLimits process_limits();

struct LimitNeeds {
  int ranks = 1;
  std::uint64_t physical_memory = 0;  ///< bytes of this host
  bool rdma = false;                  ///< the host has an InfiniBand or RoCE card
  std::string core_pattern = "core";  ///< the kernel's; a pipe's programs look after core files
};

/// Of this host, for a job of `ranks`.
LimitNeeds limit_needs(int ranks);

/// Checks of group "limits": "locked memory", "open files", "stack", "address space", "core files".
std::vector<Check> check_limits(const ProcessLimits& limits, const LimitNeeds& needs);

}  // namespace graphlora::doctor
