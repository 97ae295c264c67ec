// Tests of the device path (core/device_loop.hpp): written once, they run it on the CPU, where it
// is compared with the CPU's own kernels, and on a GPU where there is one.
#pragma once
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <optional>
#include <vector>

#include "core/device_loop.hpp"
#include "support/devices.hpp"

namespace graphlora::test {

class OnDevicePath : public OnDevice {
 protected:
  /// Runs `body` by the device path of the test's device.
  template <class Body>
  auto on_path(const Body& body) const {
    std::optional<DevicePathOnCpu> guard;
    if (device().is_cpu()) guard.emplace();
    return body();
  }

  using Function = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

  /// `function` of the inputs by the CPU's kernels and by the device path: outputs, and gradients
  /// of a random-weighted sum of them in every input of a floating type, differ by less than
  /// `tolerance` of their norm. Inputs are on the CPU; what else the function reads it must move to
  /// its inputs' device.
  void expect_equal_paths(const Function& function, const std::vector<at::Tensor>& inputs,
                          double tolerance) const {
    std::vector<at::Tensor> weights;
    const auto run = [&](at::Device where) {
      std::vector<at::Tensor> leaves, differentiable;
      for (const at::Tensor& input : inputs) {
        leaves.push_back(input.detach().to(where, /*non_blocking=*/false, /*copy=*/true));
        if (input.is_floating_point()) differentiable.push_back(leaves.back().requires_grad_(true));
      }
      std::vector<at::Tensor> results = function(leaves);
      at::Tensor loss = at::zeros({}, at::dtype(at::kDouble).device(where));
      for (std::size_t i = 0; i < results.size(); ++i) {
        if (weights.size() <= i) weights.push_back(at::randn(results[i].sizes(), at::kDouble));
        EXPECT_EQ(results[i].device(), where);
        loss = loss + (results[i].to(at::kDouble) * weights[i].to(where)).sum();
      }
      for (const at::Tensor& g :
           torch::autograd::grad({loss}, differentiable, {}, std::nullopt, false,
                                 /*allow_unused=*/true)) {
        if (g.defined()) results.push_back(g);
      }
      for (at::Tensor& result : results) result = result.detach().cpu().to(at::kDouble);
      return results;
    };
    const auto expected = run(at::kCPU);
    const auto found = on_path([&] { return run(device()); });
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].sizes(), expected[i].sizes());
      if (found[i].numel() == 0) continue;
      const double error =
          ((found[i] - expected[i]).norm() / expected[i].norm().clamp_min(1e-30)).item<double>();
      EXPECT_LT(error, tolerance) << "of result " << i;
    }
  }
};

}  // namespace graphlora::test
