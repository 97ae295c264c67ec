// Named spans for NVIDIA's profilers (nsys, ncu).
#pragma once

#if defined(GRAPHLORA_HAS_CUDA) && __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define GRAPHLORA_HAS_NVTX
#endif

namespace graphlora {

/// The calling thread is in `name` for as long as this lives; ranges nest. Costs a test of one
/// pointer where no profiler is attached, and nothing in builds without CUDA.
class ProfileRange {
 public:
#ifdef GRAPHLORA_HAS_NVTX
  explicit ProfileRange(const char* name) { nvtxRangePushA(name); }
  ~ProfileRange() { nvtxRangePop(); }
#else
  explicit ProfileRange(const char*) {}
  ~ProfileRange() {}  // NOLINT: not trivial, so that a range is no unused variable
#endif
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;
};

}  // namespace graphlora
