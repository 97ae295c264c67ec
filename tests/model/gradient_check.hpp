// Central differences against autograd, in fp64.
#pragma once
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <functional>
#include <vector>

namespace graphlora::testing {

/// Compares the gradient of a random-weighted sum of `function`'s outputs in each of `inputs` (fp64
/// leaves that require grad) with central differences, element by element.
inline void expect_gradients(const std::function<std::vector<at::Tensor>()>& function,
                             const std::vector<std::pair<const char*, at::Tensor>>& inputs,
                             double tolerance = 1e-7) {
  std::vector<at::Tensor> weights;
  const auto loss = [&] {
    at::Tensor total = at::zeros({}, at::kDouble);
    const auto outputs = function();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (weights.size() <= i) weights.push_back(at::randn(outputs[i].sizes(), at::kDouble));
      total = total + (outputs[i] * weights[i]).sum();
    }
    return total;
  };
  std::vector<at::Tensor> leaves;
  for (const auto& [name, tensor] : inputs) leaves.push_back(tensor);
  const auto gradients = torch::autograd::grad({loss()}, leaves);
  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    at::Tensor expected = at::zeros_like(leaves[i]);
    double* values = leaves[i].data_ptr<double>();
    for (std::int64_t k = 0; k < leaves[i].numel(); ++k) {
      const double before = values[k];
      values[k] = before + kStep;
      const double above = loss().item<double>();
      values[k] = before - kStep;
      const double below = loss().item<double>();
      values[k] = before;
      expected.data_ptr<double>()[k] = (above - below) / (2 * kStep);
    }
    const double error =
        ((gradients[i] - expected).norm() / expected.norm().clamp_min(1e-8)).item<double>();
    EXPECT_LT(error, tolerance) << "gradient of " << inputs[i].first;
  }
}

/// fp64 leaf with normal entries.
inline at::Tensor leaf(at::IntArrayRef shape) {
  return at::randn(shape, at::kDouble).requires_grad_(true);
}

}  // namespace graphlora::testing
