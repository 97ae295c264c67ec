#include <c10/util/BFloat16.h>

#include "core/cuda_loop.cuh"
#include "model/device_kernels.hpp"
#include "model/dropout_kernel.hpp"

namespace graphlora {

#define GRAPHLORA_LOOP(Body)                                                                    \
  template void cuda_loop(const char*, std::int64_t, std::int64_t,                              \
                          const kernel::Body<c10::BFloat16>&, CudaStream);                      \
  template void cuda_loop(const char*, std::int64_t, std::int64_t, const kernel::Body<float>&,  \
                          CudaStream);                                                          \
  template void cuda_loop(const char*, std::int64_t, std::int64_t, const kernel::Body<double>&, \
                          CudaStream)
#define GRAPHLORA_ROW_SUMS(Body)                                                                  \
  template void cuda_row_sums(const char*, std::int64_t, const kernel::Body<c10::BFloat16>&,      \
                              CudaStream);                                                        \
  template void cuda_row_sums(const char*, std::int64_t, const kernel::Body<float>&, CudaStream); \
  template void cuda_row_sums(const char*, std::int64_t, const kernel::Body<double>&, CudaStream)

GRAPHLORA_ROW_SUMS(InverseRms);
GRAPHLORA_LOOP(RmsScale);
GRAPHLORA_ROW_SUMS(RmsAlong);
GRAPHLORA_LOOP(RmsGradient);
GRAPHLORA_LOOP(RotatePart);
GRAPHLORA_LOOP(SwigluForward);
GRAPHLORA_LOOP(SwigluBackward);
GRAPHLORA_LOOP(ApplyMask);
GRAPHLORA_LOOP(AddProjectGradient);
GRAPHLORA_LOOP(ExpandSlice);

}  // namespace graphlora
