// Shapes: n rows of E, t targets, D = d_e, r rank, C columns, b columns of a block.
#include "model/lightgcn.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "graph/spmm.hpp"
#include "model/init.hpp"

namespace graphlora {
namespace {

// Columns of E that are propagated at once for the principal directions: bounds the memory.
constexpr std::int64_t kPcaColumns = 16;
// Rows whose outer products are summed at once, in f64.
constexpr std::int64_t kPcaRows = 1 << 14;

/// Mean of e⁰…eᴸ at the last targets. Collective, differentiable.
at::Tensor mean_propagation(const at::Tensor& x_nC, const LayerPlans& plans, Communicator& world) {
  at::Tensor layer = x_nC, sum = x_nC;
  for (const GraphPlan* plan : plans) {
    layer = propagate(layer, *plan, world, Normalization::symmetric);
    sum = sum.narrow(0, 0, plan->targets) + layer;
  }
  return sum / static_cast<double>(plans.size() + 1);
}

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

  std::int64_t layers() const override { return config_.layers; }
  std::int64_t width() const override { return config_.rank; }

  at::Tensor forward(const LayerPlans& plans, Communicator& world, const at::Tensor& e_nD,
                     bool training) override {
    const at::AutoGradMode mode(training);
    e_nD_ = e_nD;
    q_nr_ = at::mm(e_nD, weight().detach().t()).set_requires_grad(training);
    mean_tr_ = mean_propagation(q_nr_, plans, world);
    const at::Tensor g_tr = mean_tr_.detach() + bias().detach();
    if (!training) e_nD_ = q_nr_ = mean_tr_ = at::Tensor();
    return g_tr;
  }

  void backward(const at::Tensor& grad_g_tr, EmbeddingGradient& gradient) override {
    torch::autograd::backward({mean_tr_}, {grad_g_tr});
    const at::Tensor p_nr = q_nr_.grad();
    weight().mutable_grad() = at::mm(p_nr.t(), e_nD_);
    bias().mutable_grad() = grad_g_tr.sum(0);
    gradient.low_rank_nr = p_nr;
    gradient.factor_rD = weight().detach();
    e_nD_ = q_nr_ = mean_tr_ = at::Tensor();
  }

  void initialize(const GraphPlan& plan, Communicator& world, const at::Tensor& e_nD) override {
    if (config_.init != "pca") return;
    const at::NoGradGuard guard;
    const LayerPlans plans(static_cast<std::size_t>(config_.layers), &plan);
    const at::Tensor connected = plan.degree_n.nonzero().flatten();
    const std::int64_t width = e_nD.size(1), rows = connected.size(0);
    // Propagated a few columns at a time into one buffer over the connected rows only.
    at::Tensor x_nD = at::empty({rows, width}, e_nD.options());
    for (std::int64_t first = 0; first < width; first += kPcaColumns) {
      const std::int64_t last = std::min(first + kPcaColumns, width);
      const at::Tensor mean_nb =
          mean_propagation(e_nD.slice(1, first, last).contiguous(), plans, world);
      x_nD.slice(1, first, last).copy_(mean_nb.index_select(0, connected));
    }
    // One buffer: sum of outer products, sum of rows, count.
    at::Tensor sums = at::zeros({width * width + width + 1}, at::kDouble);
    at::Tensor outer_DD = sums.slice(0, 0, width * width).view({width, width});
    at::Tensor sum_D = sums.slice(0, width * width, width * width + width);
    for (std::int64_t first = 0; first < rows; first += kPcaRows) {
      const at::Tensor block =
          x_nD.slice(0, first, std::min(first + kPcaRows, rows)).to(at::kDouble);
      outer_DD.addmm_(block.t(), block);
      sum_D.add_(block.sum(0));
    }
    sums[-1] = static_cast<double>(rows);
    world.all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
    const double count = sums[-1].item<double>();
    if (count < 2) return;
    const at::Tensor mean_D = sum_D / count;
    const at::Tensor covariance_DD = outer_DD / count - at::outer(mean_D, mean_D);
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
  at::Tensor e_nD_, q_nr_, mean_tr_;
};

}  // namespace

std::unique_ptr<Gnn> make_lightgcn(const GnnConfig& config, std::int64_t embedding_width,
                                   at::ScalarType dtype, std::uint64_t seed) {
  return std::make_unique<LightGcn>(config, embedding_width, dtype, seed);
}

}  // namespace graphlora
