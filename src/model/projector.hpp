// E's row of an anchor → the input embedding of its placeholder token.
#pragma once
#include <torch/types.h>

#include <vector>

#include "dist/parameter.hpp"

namespace graphlora {

/// Linear(D → m) → ReLU → Linear(m → H). Names: projector.0.{weight,bias},
/// projector.2.{weight,bias}.
class Projector {
 public:
  /// Drawn from (seed, name); `options`: type and device.
  Projector(std::int64_t embedding_width, std::int64_t middle, std::int64_t hidden,
            const at::TensorOptions& options, std::uint64_t seed);
  /// Folds a factor per column of E into the first layer's initial weights, so that it reads
  /// columns of about unit variance while E·E stays a score.
  void scale_input(const at::Tensor& scale_D);
  at::Tensor forward(const at::Tensor& e_AD) const;  ///< e_AD → (A, H). Local, differentiable.
  const std::vector<Parameter>& parameters() const { return parameters_; }

 private:
  std::vector<Parameter> parameters_;
};

}  // namespace graphlora
