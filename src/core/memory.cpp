#include "core/memory.hpp"

#include <malloc.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <string>

// tcmalloc's, null in a program without it (docs/adr/0010-tcmalloc.md).
extern "C" void MallocExtension_ReleaseFreeMemory() __attribute__((weak));

namespace graphlora {
namespace {

/// The number of KiB behind `key` in a file of "key: number kB" lines, as bytes.
std::int64_t bytes_of(const char* path, const std::string& key, std::int64_t otherwise) {
  std::ifstream file(path);
  std::string name, rest;
  for (std::int64_t kib = 0; file >> name; std::getline(file, rest))
    if (name == key && file >> kib) return kib * 1024;
  return otherwise;
}

}  // namespace

std::int64_t resident_memory_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

std::int64_t peak_memory_bytes() {
  // Not getrusage's: that starts with the size of the process which started this one.
  return bytes_of("/proc/self/status", "VmHWM:", 0);
}

std::int64_t proportional_set_bytes() { return bytes_of("/proc/self/smaps_rollup", "Pss:", 0); }

std::int64_t available_memory_bytes() {
  return bytes_of("/proc/meminfo", "MemAvailable:", std::numeric_limits<std::int64_t>::max());
}

std::int64_t total_memory_bytes() { return bytes_of("/proc/meminfo", "MemTotal:", 0); }

std::int64_t huge_page_bytes() { return bytes_of("/proc/meminfo", "Hugetlb:", 0); }

void release_free_memory() {
  if (MallocExtension_ReleaseFreeMemory != nullptr)
    MallocExtension_ReleaseFreeMemory();
  else
    malloc_trim(0);
}

}  // namespace graphlora
