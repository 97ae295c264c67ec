#include "model/init.hpp"

#include "core/rng.hpp"

namespace graphlora {

at::Tensor uniform_parameter(at::IntArrayRef shape, double bound, const at::TensorOptions& options,
                             std::uint64_t seed, const std::string& name) {
  at::Tensor values = at::empty(shape, at::kDouble);
  SplitMix64 random(hash_name(seed, name));
  auto* data = values.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < values.numel(); ++i) data[i] = bound * (2 * random.uniform() - 1);
  return values.to(options).set_requires_grad(true);
}

}  // namespace graphlora
