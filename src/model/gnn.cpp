#include "model/gnn.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "core/error.hpp"
#include "graph/spmm.hpp"
#include "model/init.hpp"

namespace graphlora {
namespace {

/// Mean of e⁰…eᴸ with eᵏ⁺¹ = S·eᵏ (He et al. 2020, eq. 8). Collective, differentiable.
at::Tensor mean_propagation(const at::Tensor& x_nC, std::int64_t layers, const GraphPlan& plan,
                            Communicator& world) {
  at::Tensor layer = x_nC, sum = x_nC;
  for (std::int64_t k = 0; k < layers; ++k) {
    layer = propagate_symmetric(layer, plan, world);
    sum = sum + layer;
  }
  return sum / static_cast<double>(layers + 1);
}

/// g = W_neck·mean(e⁰…eᴸ) + b. Linear in E, so E·W_neckᵀ is what travels: r columns instead of D.
class LightGcn final : public Gnn {
 public:
  LightGcn(const GnnConfig& config, std::int64_t width, at::ScalarType dtype, std::uint64_t seed)
      : config_(config) {
    const double bound = 1 / std::sqrt(static_cast<double>(width));
    parameters_.push_back(
        {"neck.weight", uniform_parameter({config.rank, width}, bound, dtype, seed, "neck.weight"),
         Placement::gnn, true});
    parameters_.push_back({"neck.bias", at::zeros({config.rank}, dtype).set_requires_grad(true),
                           Placement::gnn, false});
  }

  at::Tensor forward(const GraphPlan& plan, Communicator& world, const at::Tensor& e_nD,
                     bool training) override {
    const at::AutoGradMode mode(training);
    e_nD_ = e_nD;
    q_nr_ = at::mm(e_nD, weight().detach().t()).set_requires_grad(training);
    mean_nr_ = mean_propagation(q_nr_, config_.layers, plan, world);
    const at::Tensor g_nr = mean_nr_.detach() + bias().detach();
    if (!training) q_nr_ = mean_nr_ = at::Tensor();
    return g_nr;
  }

  void backward(const at::Tensor& grad_g_nr, EmbeddingGradient& gradient) override {
    torch::autograd::backward({mean_nr_}, {grad_g_nr});
    const at::Tensor p_nr = q_nr_.grad();
    weight().mutable_grad() = at::mm(p_nr.t(), e_nD_);
    bias().mutable_grad() = grad_g_nr.sum(0);
    gradient.low_rank_nr = p_nr;
    gradient.factor_rD = weight().detach();
    q_nr_ = mean_nr_ = at::Tensor();
  }

  void initialize(const GraphPlan& plan, Communicator& world, const at::Tensor& e_nD) override {
    if (config_.init != "pca") return;
    const at::NoGradGuard guard;
    const at::Tensor mean_nD = mean_propagation(e_nD, config_.layers, plan, world);
    const at::Tensor x_nD =
        mean_nD.index_select(0, plan.degree_n.nonzero().flatten()).to(at::kDouble);
    const std::int64_t width = e_nD.size(1);
    // One buffer: sum of outer products, sum of rows, count.
    at::Tensor sums = at::cat({at::mm(x_nD.t(), x_nD).flatten(), x_nD.sum(0),
                               at::full({1}, static_cast<double>(x_nD.size(0)), at::kDouble)});
    world.all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
    const double count = sums[-1].item<double>();
    if (count < 2) return;
    const at::Tensor mean_D = sums.slice(0, width * width, width * width + width) / count;
    const at::Tensor covariance_DD =
        sums.slice(0, 0, width * width).view({width, width}) / count - at::outer(mean_D, mean_D);
    const auto [values, vectors_DD] = at::linalg_eigh(covariance_DD);
    const std::int64_t directions = std::min(config_.rank, width);
    at::Tensor leading_rD = vectors_DD.slice(1, width - directions, width).flip(1).t().contiguous();
    // An eigenvector's sign is arbitrary: fix it, or rounding at another rank count could flip it.
    const at::Tensor largest = leading_rD.gather(1, leading_rD.abs().argmax(1, true));
    leading_rD.mul_(largest.sign());
    weight().slice(0, 0, directions).copy_(leading_rD);
    bias().slice(0, 0, directions).copy_(-at::mv(leading_rD, mean_D));
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }

 private:
  const at::Tensor& weight() const { return parameters_[0].value; }
  const at::Tensor& bias() const { return parameters_[1].value; }

  GnnConfig config_;
  std::vector<Parameter> parameters_;
  at::Tensor e_nD_, q_nr_, mean_nr_;
};

}  // namespace

std::unique_ptr<Gnn> make_gnn(const GnnConfig& config, std::int64_t embedding_width,
                              at::ScalarType dtype, std::uint64_t seed) {
  if (config.type == "none") return nullptr;
  if (config.type == "lightgcn")
    return std::make_unique<LightGcn>(config, embedding_width, dtype, seed);
  throw ConfigError("--gnn.type {}: is not supported; supported: lightgcn, none", config.type);
}

at::Tensor normalize_rows(const at::Tensor& g_Sr, const at::Tensor& degree_S, double scale) {
  const at::Tensor norm_S1 = at::linalg_vector_norm(g_Sr, 2, 1, /*keepdim=*/true).clamp_min(1e-12);
  const at::Tensor connected_S1 = (degree_S > 0).unsqueeze(1).to(g_Sr.scalar_type());
  return g_Sr / norm_S1 * (scale * connected_S1);
}

}  // namespace graphlora
