// Memory of this host: free, shared (/dev/shm), and its pages.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/doctor/check.hpp"

namespace graphlora::doctor {

struct HostMemory {
  std::uint64_t available = 0;   ///< bytes; less where a control group allows less
  std::uint64_t total = 0;       ///< bytes
  std::uint64_t huge_pages = 0;  ///< bytes set aside as explicit huge pages
  /// The kernel's words on transparent huge pages, "always [madvise] never"; empty: it has none.
  std::string transparent = {};
};

HostMemory host_memory();

/// Checks of group "memory": "free" (`ranks` on this host, each of which wants `needed` bytes) and
/// "huge pages".
std::vector<Check> check_memory(const HostMemory& memory, int ranks, std::uint64_t needed);

/// Check "memory", "shared": MPI and NCCL move data between the ranks of a host through files in
/// `directory`, /dev/shm.
Check check_shared_memory(const std::filesystem::path& directory, int ranks);

}  // namespace graphlora::doctor
