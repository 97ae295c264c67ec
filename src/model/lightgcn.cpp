// Shapes: n rows of E, t targets, D = d_e, r rank, C columns, b columns of a block.
#include "model/lightgcn.hpp"

#include <algorithm>
#include <cmath>

#include "graph/spmm.hpp"
#include "model/init.hpp"

namespace graphlora {
namespace {

// Directions of E that are propagated for the principal directions: those of most variance.
constexpr std::int64_t kPcaDirections = 64;
// Rows whose outer products are summed at once, in f64.
constexpr std::int64_t kPcaRows = 1 << 14;

/// Mean of e⁰…eᴸ at the last targets, without autograd. Collective.
at::Tensor mean_propagation(const at::Tensor& x_nC, const LayerPlans& plans, Communicator& world) {
  const at::NoGradGuard guard;
  const std::int64_t targets = plans.empty() ? x_nC.size(0) : plans.back()->targets;
  at::Tensor layer = x_nC, sum_tC = x_nC.narrow(0, 0, targets).clone();
  for (const GraphPlan* plan : plans) {
    layer = propagate(layer, *plan, world, Normalization::symmetric);
    sum_tC.add_(layer.narrow(0, 0, targets));
  }
  return sum_tC.div_(static_cast<double>(plans.size() + 1));
}

/// Its adjoint, by Horner's rule from the last layer on. Collective.
at::Tensor mean_propagation_adjoint(const at::Tensor& g_tC, const LayerPlans& plans,
                                    Communicator& world) {
  const at::NoGradGuard guard;
  const at::Tensor share_tC = g_tC / static_cast<double>(plans.size() + 1);
  at::Tensor sum = share_tC.clone();
  for (auto plan = plans.rbegin(); plan != plans.rend(); ++plan) {
    sum = propagate_adjoint(sum, **plan, world, Normalization::symmetric);
    sum.narrow(0, 0, share_tC.size(0)).add_(share_tC);
  }
  return sum;
}

/// Mean (D) and covariance (D, D) over the rows of all ranks in f64; count 0: undefined.
/// Collective.
struct Moments {
  at::Tensor mean_D, covariance_DD;
  double count = 0;
};
Moments moments_of(const at::Tensor& x_nD, Communicator& world) {
  const std::int64_t rows = x_nD.size(0), width = x_nD.size(1);
  // One buffer: sum of outer products, sum of rows, count.
  at::Tensor sums = at::zeros({width * width + width + 1}, x_nD.options().dtype(at::kDouble));
  at::Tensor outer_DD = sums.slice(0, 0, width * width).view({width, width});
  at::Tensor sum_D = sums.slice(0, width * width, width * width + width);
  for (std::int64_t first = 0; first < rows; first += kPcaRows) {
    const at::Tensor block = x_nD.slice(0, first, std::min(first + kPcaRows, rows)).to(at::kDouble);
    outer_DD.addmm_(block.t(), block);
    sum_D.add_(block.sum(0));
  }
  sums[-1] = static_cast<double>(rows);
  world.all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
  Moments moments;
  moments.count = sums[-1].item<double>();
  if (moments.count < 1) return moments;
  moments.mean_D = sum_D / moments.count;
  moments.covariance_DD = outer_DD / moments.count - at::outer(moments.mean_D, moments.mean_D);
  return moments;
}

/// The `count` eigenvectors of the largest eigenvalues, as rows, largest first.
at::Tensor leading_directions(const at::Tensor& covariance_DD, std::int64_t count) {
  const std::int64_t width = covariance_DD.size(0);
  const auto [values, vectors_DD] = at::linalg_eigh(covariance_DD);
  at::Tensor leading = vectors_DD.slice(1, width - count, width).flip(1).t().contiguous();
  // An eigenvector's sign is arbitrary: fix it, or rounding at another rank count could flip it.
  const at::Tensor largest = leading.gather(1, leading.abs().argmax(1, true));
  return leading.mul_(largest.sign());
}

class LightGcn final : public Gnn {
 public:
  LightGcn(const GnnConfig& config, std::int64_t width, const at::TensorOptions& options,
           std::uint64_t seed)
      : config_(config) {
    const double bound = 1 / std::sqrt(static_cast<double>(width));
    parameters_.push_back(
        {"neck.weight",
         uniform_parameter({config.rank, width}, bound, options, seed, "neck.weight"),
         Placement::gnn, true});
    parameters_.push_back({"neck.bias", at::zeros({config.rank}, options).set_requires_grad(true),
                           Placement::gnn, false});
  }

  std::int64_t layers() const override { return config_.layers; }
  // The sources of a layer twice (sent and received), its input, result and the sum.
  std::int64_t held_numbers(const LayerPlans& plans) const override {
    std::int64_t rows = 0;
    for (const GraphPlan* plan : plans)
      rows = std::max(rows, 2 * plan->sources() + 3 * plan->owned);
    return rows * config_.rank;
  }

  at::Tensor forward(const LayerPlans& plans, Communicator& world, const at::Tensor& e_nD,
                     bool training) override {
    const at::NoGradGuard guard;
    if (training) e_nD_ = e_nD, plans_ = plans, world_ = &world;
    return mean_propagation(at::mm(e_nD, weight().t()), plans, world).add_(bias());
  }

  void backward(const at::Tensor& grad_g_tr, EmbeddingGradient& gradient) override {
    const at::NoGradGuard guard;
    gradient.low_rank_nr = mean_propagation_adjoint(grad_g_tr, plans_, *world_);
    gradient.factor_rD = weight().detach();
    weight().mutable_grad() = at::mm(gradient.low_rank_nr.t(), e_nD_);
    bias().mutable_grad() = grad_g_tr.sum(0);
    e_nD_ = at::Tensor();
  }

  void initialize(const GraphPlan& plan, Communicator& world, const at::Tensor& e_nD) override {
    if (config_.init != "pca") return;
    const at::NoGradGuard guard;
    const LayerPlans plans(static_cast<std::size_t>(config_.layers), &plan);
    const at::Tensor connected = plan.degree_n.to(e_nD.device()).nonzero().flatten();
    const std::int64_t width = e_nD.size(1);
    // Of a wide E only the leading directions are propagated: the others carry little.
    at::Tensor basis_KD, x_nK = e_nD;
    if (width > kPcaDirections) {
      const Moments moments = moments_of(e_nD, world);
      basis_KD = leading_directions(moments.covariance_DD, kPcaDirections);
      x_nK = at::mm(e_nD, basis_KD.to(e_nD.scalar_type()).t());
    }
    x_nK = mean_propagation(x_nK, plans, world).index_select(0, connected);
    const Moments moments = moments_of(x_nK, world);
    if (moments.count < 2) return;
    const std::int64_t directions = std::min(config_.rank, x_nK.size(1));
    at::Tensor leading_rD = leading_directions(moments.covariance_DD, directions);
    const at::Tensor center_r = at::mv(leading_rD, moments.mean_D);
    if (basis_KD.defined()) leading_rD = at::mm(leading_rD, basis_KD);
    weight().slice(0, 0, directions).copy_(leading_rD);
    bias().slice(0, 0, directions).copy_(-center_r);
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }

 private:
  const at::Tensor& weight() const { return parameters_[0].value; }
  const at::Tensor& bias() const { return parameters_[1].value; }

  GnnConfig config_;
  std::vector<Parameter> parameters_;
  // Of the last forward in training.
  at::Tensor e_nD_;
  LayerPlans plans_;
  Communicator* world_ = nullptr;
};

}  // namespace

std::unique_ptr<Gnn> make_lightgcn(const GnnConfig& config, std::int64_t embedding_width,
                                   const at::TensorOptions& options, std::uint64_t seed) {
  return std::make_unique<LightGcn>(config, embedding_width, options, seed);
}

}  // namespace graphlora
