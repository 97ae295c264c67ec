#include "core/device_loop.hpp"

namespace graphlora {

bool takes_device_path(const at::Tensor& tensor, Shortcut kernel) {
  return !tensor.is_cpu() || is_off(kernel);
}

}  // namespace graphlora
