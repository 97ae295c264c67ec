// The number types of a run (`--precision`) and the device it computes on (`--device`).
#pragma once
#include <torch/types.h>

#include <string>

namespace graphlora {

struct Precision {
  at::ScalarType activation = at::kBFloat16;  ///< base weights and activations of the LLM
  at::ScalarType parameter = at::kFloat;      ///< adapters, GNN, projector, E, optimizer, loss
  /// bf16: (bf16, fp32); fp32: (fp32, fp32); fp64: (fp64, fp64). Throws ConfigError.
  static Precision parse(const std::string& name);

  at::Device device = at::kCPU;  ///< where the LLM, the GNN, E and their activations live
  at::TensorOptions activation_options() const { return at::dtype(activation).device(device); }
  at::TensorOptions parameter_options() const { return at::dtype(parameter).device(device); }
};

}  // namespace graphlora
