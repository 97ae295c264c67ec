// The number types of a run (`--precision`).
#pragma once
#include <torch/types.h>

#include <string>

namespace graphlora {

struct Precision {
  at::ScalarType activation = at::kBFloat16;  ///< base weights and activations of the LLM
  at::ScalarType parameter = at::kFloat;      ///< adapters, GNN, projector, E, optimizer, loss
  /// bf16: (bf16, fp32); fp32: (fp32, fp32); fp64: (fp64, fp64). Throws ConfigError.
  static Precision parse(const std::string& name);
};

}  // namespace graphlora
