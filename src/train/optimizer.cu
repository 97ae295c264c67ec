#include "core/cuda_loop.cuh"
#include "train/optimizer_kernel.hpp"

namespace graphlora {

#define GRAPHLORA_INSTANTIATE(Body)                                                    \
  template void cuda_loop(const char*, std::int64_t, std::int64_t, const Body<float>&, \
                          CudaStream);                                                 \
  template void cuda_loop(const char*, std::int64_t, std::int64_t, const Body<double>&, CudaStream)

GRAPHLORA_INSTANTIATE(AdamWUpdate);
GRAPHLORA_INSTANTIATE(SgdUpdate);

}  // namespace graphlora
