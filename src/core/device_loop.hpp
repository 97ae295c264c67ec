// One call for a loop on whatever device tensors lie on; and which of two ways an operation takes:
// the CPU's vector kernels, or the device path, whose kernels are loops over host/device bodies and
// whose products are ATen's.
#pragma once
#include <ATen/Parallel.h>
#include <torch/types.h>

#ifdef GRAPHLORA_HAS_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "core/cuda_loop.hpp"
#include "core/host_device.hpp"
#include "core/shortcuts.hpp"

namespace graphlora {

/// Whether an operation on this tensor takes the device path: where it is not on the CPU, and on
/// the CPU where its vector kernel is off.
bool takes_device_path(const at::Tensor& tensor, Shortcut kernel);

/// For tests: the CPU takes the device path too, so that nothing but the device differs on a GPU.
class DevicePathOnCpu {
  PlainPaths kernels_{std::vector<Shortcut>(kVectorKernels.begin(), kVectorKernels.end())};
};

/// on_cuda(stream) with the device current, or on_cpu().
template <class OnCuda, class OnCpu>
void on_device(at::Device device, const char* name, [[maybe_unused]] const OnCuda& on_cuda,
               const OnCpu& on_cpu) {
#ifdef GRAPHLORA_HAS_CUDA
  if (device.is_cuda()) {
    const c10::cuda::CUDAGuard guard(device);
    on_cuda(c10::cuda::getCurrentCUDAStream(device.index()).stream());
    return;
  }
#endif
  TORCH_CHECK(device.is_cpu(), name, ": this build has no kernel for ", device.str());
  on_cpu();
}

/// body(row, column) for all row < rows and column < columns, in any order; on CUDA asynchronously
/// on the current stream. The body's pointers are the device's.
template <class Body>
void device_loop(at::Device device, const char* name, std::int64_t rows, std::int64_t columns,
                 const Body& body) {
  on_device(
      device, name,
      [&]([[maybe_unused]] CudaStream stream) {
#ifdef GRAPHLORA_HAS_CUDA
        cuda_loop(name, rows, columns, body, stream);
#endif
      },
      [&] {
        at::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row)
            for (std::int64_t column = 0; column < columns; ++column) body(row, column);
        });
      });
}

/// body.finish(row, Σ over k < body.terms(row) of body.term(row, k)) for all row < rows; terms as
/// for cuda_row_sums. The sum's order is that of CUDA on the CPU too.
template <class Body>
void device_row_sums(at::Device device, const char* name, std::int64_t rows, const Body& body) {
  on_device(
      device, name,
      [&]([[maybe_unused]] CudaStream stream) {
#ifdef GRAPHLORA_HAS_CUDA
        cuda_row_sums(name, rows, body, stream);
#endif
      },
      [&] {
        at::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            decltype(body.term(0, 0)) lanes[kernel::kSumLanes];
            for (int lane = 0; lane < kernel::kSumLanes; ++lane)
              lanes[lane] = kernel::lane_sum(body, row, lane);
            for (int offset = kernel::kSumLanes / 2; offset > 0; offset /= 2)
              for (int lane = 0; lane < offset; ++lane) lanes[lane] += lanes[lane + offset];
            body.finish(row, lanes[0]);
          }
        });
      });
}

}  // namespace graphlora
