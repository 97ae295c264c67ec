#include "core/cuda_loop.cuh"
#include "graph/attention_kernel.hpp"

namespace graphlora {

#define GRAPHLORA_INSTANTIATE(Body)                                                       \
  template void cuda_row_sums(const char*, std::int64_t, const Body<float>&, CudaStream); \
  template void cuda_row_sums(const char*, std::int64_t, const Body<double>&, CudaStream)

GRAPHLORA_INSTANTIATE(AttendLse);
GRAPHLORA_INSTANTIATE(AttendOut);
GRAPHLORA_INSTANTIATE(AttendTargetGradient);
GRAPHLORA_INSTANTIATE(AttendValueGradient);
GRAPHLORA_INSTANTIATE(AttendSourceGradient);

}  // namespace graphlora
