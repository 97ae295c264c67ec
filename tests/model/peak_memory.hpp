// Peak resident memory of a part of a test (Linux).
#pragma once
#include <cstddef>
#include <fstream>
#include <string>

namespace graphlora::testing {

/// Bytes of the highest resident set since the last reset.
inline std::size_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) << 10;
  }
  return 0;
}

/// Starts a new measurement; returns the resident bytes now.
inline std::size_t reset_peak_memory() {
  std::ofstream("/proc/self/clear_refs") << 5;
  return peak_memory();
}

}  // namespace graphlora::testing
