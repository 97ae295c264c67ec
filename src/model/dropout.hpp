// Dropout whose bits depend on nothing but what is dropped: same on any grid, packing, machine or
// device.
#pragma once
#include <torch/types.h>

#include <cstdint>

namespace graphlora {

/// Inputs of adapters that share one mask.
enum class InputGroup : std::uint32_t { qkv = 0, o = 1, gate_up = 2, down = 3 };

/// Of one step. probability 0: no dropout.
struct DropoutKey {
  double probability = 0;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
};

/// x_TF · mask / (1-p), mask bits from Philox with key (seed, step) and counter (stream, layer,
/// group, position in the prompt, global feature). streams_T, positions_T: i64. Differentiable in x
/// (the mask is drawn again in backward).
at::Tensor dropout(const at::Tensor& x_TF, const at::Tensor& streams_T,
                   const at::Tensor& positions_T, const DropoutKey& key, std::int64_t layer,
                   InputGroup group);

}  // namespace graphlora
