#include "dist/device.hpp"

#ifdef GRAPHLORA_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

#include <cstring>

#include "core/error.hpp"

namespace graphlora {
namespace {

/// GPUs that the process sees, or why none can be used.
struct Found {
  int count = 0;
  std::string why_none;
};

Found find_gpus() {
#if !defined(GRAPHLORA_HAS_CUDA)
  return {0, "this program was built without CUDA"};
#elif !defined(GRAPHLORA_LINKS_TORCH_CUDA)
  return {0, "this program was built without LibTorch's CUDA part (GRAPHLORA_CUDA=ON links it)"};
#else
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return {0, "there is no NVIDIA driver (CUDA) on this machine"};
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // not to be found by the next call
    return {0, fmt::format("no GPU can be used: {} (driver for CUDA {}.{}, built with {}.{})",
                           cudaGetErrorString(status), driver / 1000, driver % 1000 / 10,
                           CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10)};
  }
  if (count == 0) return {0, "this process sees no GPU (CUDA_VISIBLE_DEVICES?)"};
  return {count, ""};
#endif
}

/// Asked once: the driver does not change under a running process.
const Found& gpus() {
  static const Found found = find_gpus();
  return found;
}

#ifdef GRAPHLORA_HAS_CUDA
cudaDeviceProp properties(at::Device device) {
  cudaDeviceProp found{};
  const cudaError_t status = cudaGetDeviceProperties(&found, device.index());
  if (status != cudaSuccess) throw ConfigError("{}: {}", device.str(), cudaGetErrorString(status));
  return found;
}
#endif

}  // namespace

std::string why_no_cuda() { return gpus().why_none; }

at::Device cuda_device(int local_rank) {
  if (gpus().count == 0) throw ConfigError("--device cuda: {}", gpus().why_none);
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank % gpus().count)};
}

std::array<std::int64_t, 2> gpu_uuid(at::Device device) {
  std::array<std::int64_t, 2> uuid{};
#ifdef GRAPHLORA_HAS_CUDA
  const cudaDeviceProp found = properties(device);
  static_assert(sizeof(found.uuid) == sizeof(uuid));
  std::memcpy(uuid.data(), &found.uuid, sizeof(uuid));
#endif
  return uuid;
}

std::string gpu_name(at::Device device) {
#ifdef GRAPHLORA_HAS_CUDA
  return properties(device).name;
#else
  return device.str();
#endif
}

std::string gpu_address(at::Device device) {
#ifdef GRAPHLORA_HAS_CUDA
  const cudaDeviceProp found = properties(device);
  return fmt::format("{:04x}:{:02x}:{:02x}.0", found.pciDomainID, found.pciBusID,
                     found.pciDeviceID);
#else
  return device.str();
#endif
}

}  // namespace graphlora
