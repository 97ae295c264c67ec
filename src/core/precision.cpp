#include "core/precision.hpp"

#include "core/error.hpp"

namespace graphlora {

Precision Precision::parse(const std::string& name) {
  if (name == "bf16") return {at::kBFloat16, at::kFloat};
  if (name == "fp32") return {at::kFloat, at::kFloat};
  if (name == "fp64") return {at::kDouble, at::kDouble};
  throw ConfigError("--precision {}: must be bf16, fp32 or fp64", name);
}

}  // namespace graphlora
