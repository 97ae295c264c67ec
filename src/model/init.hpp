// Initial weights drawn from (seed, name): the same on every rank, whatever else is drawn.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <string>

namespace graphlora {

/// Uniform in [-bound, bound), a leaf that requires grad. The draws are doubles, so that an fp64
/// and an fp32 run start from the same model up to rounding.
at::Tensor uniform_parameter(at::IntArrayRef shape, double bound, const at::TensorOptions& options,
                             std::uint64_t seed, const std::string& name);

}  // namespace graphlora
