#include "model/projector.hpp"

#include <cmath>

#include "model/init.hpp"

namespace graphlora {

Projector::Projector(std::int64_t embedding_width, std::int64_t middle, std::int64_t hidden,
                     const at::TensorOptions& options, std::uint64_t seed) {
  const auto add = [&](const std::string& name, at::IntArrayRef shape, std::int64_t inputs,
                       bool decay) {
    // PyTorch's default for Linear: weight and bias uniform within 1/sqrt(inputs).
    const double bound = 1 / std::sqrt(static_cast<double>(inputs));
    parameters_.push_back(
        {name, uniform_parameter(shape, bound, options, seed, name), Placement::projector, decay});
  };
  add("projector.0.weight", {middle, embedding_width}, embedding_width, true);
  add("projector.0.bias", {middle}, embedding_width, false);
  add("projector.2.weight", {hidden, middle}, middle, true);
  add("projector.2.bias", {hidden}, middle, false);
}

void Projector::scale_input(const at::Tensor& scale_D) {
  const at::NoGradGuard guard;
  parameters_[0].value.mul_(scale_D.to(parameters_[0].value.options()));
}

at::Tensor Projector::forward(const at::Tensor& e_AD) const {
  const at::Tensor middle = at::linear(e_AD, parameters_[0].value, parameters_[1].value).relu();
  return at::linear(middle, parameters_[2].value, parameters_[3].value);
}

}  // namespace graphlora
