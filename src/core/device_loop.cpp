#include "core/device_loop.hpp"

#include <atomic>

namespace graphlora {
namespace {

std::atomic<int> tests_asking{0};

}  // namespace

bool takes_device_path(const at::Tensor& tensor) {
  return !tensor.is_cpu() || tests_asking.load(std::memory_order_relaxed) > 0;
}

DevicePathOnCpu::DevicePathOnCpu() { ++tests_asking; }
DevicePathOnCpu::~DevicePathOnCpu() { --tests_asking; }

}  // namespace graphlora
