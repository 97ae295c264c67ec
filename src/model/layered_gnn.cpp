// Shapes: n rows of a layer's sources, m = n and its halo rows, t its targets, I and O widths in
// and out, K heads, C width of a head.
#include "model/layered_gnn.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "graph/edge_attention.hpp"
#include "graph/halo_exchange.hpp"
#include "graph/spmm.hpp"
#include "model/init.hpp"

namespace graphlora {
namespace {

constexpr double kNgcfSlope = 0.2;

/// One layer and its parameters; all layers of a GNN are of one kind.
class Layer {
 public:
  virtual ~Layer() = default;
  /// x_nI → y_tO, differentiable. Collective.
  virtual at::Tensor forward(const at::Tensor& x_nI, const GraphPlan& plan,
                             Communicator& world) const = 0;
};

/// Draws a layer's parameters as they are named in the checkpoint, and lists them.
class ParameterMaker {
 public:
  ParameterMaker(std::int64_t layer, const at::TensorOptions& options, std::uint64_t seed,
                 std::vector<Parameter>& all)
      : prefix_("gnn.layers." + std::to_string(layer) + "."),
        options_(options),
        seed_(seed),
        all_(all) {}
  at::Tensor uniform(const std::string& name, at::IntArrayRef shape, std::int64_t fan_in) const {
    const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
    return add(name, uniform_parameter(shape, bound, options_, seed_, prefix_ + name), true);
  }
  at::Tensor zeros(const std::string& name, std::int64_t size) const {
    return add(name, at::zeros({size}, options_).set_requires_grad(true), false);
  }

 private:
  at::Tensor add(const std::string& name, at::Tensor value, bool decay) const {
    all_.push_back({prefix_ + name, value, Placement::gnn, decay});
    return value;
  }
  std::string prefix_;
  at::TensorOptions options_;
  std::uint64_t seed_;
  std::vector<Parameter>& all_;
};

struct Linear {
  at::Tensor weight_OI, bias_O;
  Linear(const ParameterMaker& make, const std::string& name, std::int64_t in, std::int64_t out)
      : weight_OI(make.uniform(name + ".weight", {out, in}, in)),
        bias_O(make.zeros(name + ".bias", out)) {}
  at::Tensor operator()(const at::Tensor& x) const { return at::linear(x, weight_OI, bias_O); }
};

/// Wang et al. 2019: leaky( W1(h + S·h) + b1 + W2((S·h)⊙h) + b2 ).
class NgcfLayer final : public Layer {
 public:
  NgcfLayer(const ParameterMaker& make, std::int64_t in, std::int64_t out)
      : w1_(make, "w1", in, out), w2_(make, "w2", in, out) {}
  at::Tensor forward(const at::Tensor& x_nI, const GraphPlan& plan,
                     Communicator& world) const override {
    const at::Tensor s_tI = propagate(x_nI, plan, world, Normalization::symmetric);
    const at::Tensor x_tI = x_nI.narrow(0, 0, plan.targets);
    return at::leaky_relu(w1_(x_tI + s_tI) + w2_(s_tI * x_tI), kNgcfSlope);
  }

 private:
  Linear w1_, w2_;
};

/// Kipf and Welling 2017: Ŝ·(x·W) + b, relu between layers.
class GcnLayer final : public Layer {
 public:
  GcnLayer(const ParameterMaker& make, std::int64_t in, std::int64_t out, bool last)
      : linear_(make, "linear", in, out), last_(last) {}
  at::Tensor forward(const at::Tensor& x_nI, const GraphPlan& plan,
                     Communicator& world) const override {
    const at::Tensor y_tO = propagate(at::mm(x_nI, linear_.weight_OI.t()), plan, world,
                                      Normalization::with_self_loops) +
                            linear_.bias_O;
    return last_ ? y_tO : y_tO.relu();
  }

 private:
  Linear linear_;
  bool last_;
};

/// Hamilton et al. 2017, mean aggregator: Ws·x + bs + Wn·(M·x) + bn, relu between layers.
class SageLayer final : public Layer {
 public:
  SageLayer(const ParameterMaker& make, std::int64_t in, std::int64_t out, bool last)
      : self_(make, "self", in, out), neighbor_(make, "neighbor", in, out), last_(last) {}
  at::Tensor forward(const at::Tensor& x_nI, const GraphPlan& plan,
                     Communicator& world) const override {
    const at::Tensor m_tO =
        propagate(at::mm(x_nI, neighbor_.weight_OI.t()), plan, world, Normalization::mean);
    const at::Tensor y_tO = self_(x_nI.narrow(0, 0, plan.targets)) + m_tO + neighbor_.bias_O;
    return last_ ? y_tO : y_tO.relu();
  }

 private:
  Linear self_, neighbor_;
  bool last_;
};

/// Veličković et al. 2018: h = W·x + b, attention over in-edges; heads side by side and ELU in the
/// first layer, their mean in the last.
class GatLayer final : public Layer {
 public:
  GatLayer(const ParameterMaker& make, std::int64_t in, std::int64_t head_width, std::int64_t heads,
           bool last)
      : heads_(heads),
        width_(head_width),
        linear_(make, "linear", in, heads * head_width),
        dst_(make.uniform("attention_dst", {heads * head_width}, head_width)),
        src_(make.uniform("attention_src", {heads * head_width}, head_width)),
        bias_K_(make.zeros("attention_bias", heads)),
        last_(last) {}
  at::Tensor forward(const at::Tensor& x_nI, const GraphPlan& plan,
                     Communicator& world) const override {
    const at::Tensor h_nO = linear_(x_nI);
    const at::Tensor src_nK = score(h_nO, src_);
    const at::Tensor dst_tK = score(h_nO.narrow(0, 0, plan.targets), dst_) + bias_K_;
    const at::Tensor all_m = halo_exchange(at::cat({h_nO, src_nK}, 1), plan, world);
    const std::int64_t columns = heads_ * width_;
    const at::Tensor out_tKC =
        edge_attention(all_m.slice(1, 0, columns).contiguous().view({-1, heads_, width_}),
                       all_m.slice(1, columns), dst_tK, plan);
    return last_ ? out_tKC.mean(1) : at::elu(out_tKC.flatten(1));
  }

 private:
  at::Tensor score(const at::Tensor& h_nO, const at::Tensor& vector_O) const {
    return (h_nO * vector_O).view({h_nO.size(0), heads_, width_}).sum(2);
  }
  std::int64_t heads_, width_;
  Linear linear_;
  at::Tensor dst_, src_, bias_K_;
  bool last_;
};

class LayeredGnn final : public Gnn {
 public:
  LayeredGnn(const GnnConfig& config, std::int64_t width, const at::TensorOptions& options,
             std::uint64_t seed)
      : type_(config.type),
        width_(std::max({width, config.hidden, config.heads * (config.rank + 1)})) {
    std::int64_t in = width;
    for (std::int64_t k = 0; k < config.layers; ++k) {
      const bool last = k + 1 == config.layers;
      const std::int64_t out = last ? config.rank : config.hidden;
      const ParameterMaker make(k, options, seed, parameters_);
      if (type_ == "ngcf") layers_.push_back(std::make_unique<NgcfLayer>(make, in, out));
      if (type_ == "gcn") layers_.push_back(std::make_unique<GcnLayer>(make, in, out, last));
      if (type_ == "graphsage") layers_.push_back(std::make_unique<SageLayer>(make, in, out, last));
      if (type_ == "gat") {
        layers_.push_back(std::make_unique<GatLayer>(make, in, last ? out : out / config.heads,
                                                     config.heads, last));
      }
      in = out;
    }
  }

  std::int64_t layers() const override { return static_cast<std::int64_t>(layers_.size()); }
  // Autograd keeps of each layer its input, sums, product and their gradients.
  std::int64_t held_numbers(const LayerPlans& plans) const override {
    constexpr std::int64_t kTensorsPerLayer = 6;
    std::int64_t rows = 0;
    for (const GraphPlan* plan : plans) rows += plan->sources();
    return rows * kTensorsPerLayer * width_;
  }

  at::Tensor forward(const LayerPlans& plans, Communicator& world, const at::Tensor& e_nD,
                     bool training) override {
    const at::AutoGradMode mode(training);
    leaf_nD_ = e_nD.detach();
    if (training) leaf_nD_.set_requires_grad(true);
    at::Tensor x = leaf_nD_;
    for (std::size_t k = 0; k < layers_.size(); ++k) x = layers_[k]->forward(x, *plans[k], world);
    output_tr_ = x;
    const at::Tensor g_tr = x.detach();
    if (!training) leaf_nD_ = output_tr_ = at::Tensor();
    return g_tr;
  }

  void backward(const at::Tensor& grad_g_tr, EmbeddingGradient& gradient) override {
    torch::autograd::backward({output_tr_}, {grad_g_tr});
    gradient.dense_nD = leaf_nD_.grad();
    leaf_nD_ = output_tr_ = at::Tensor();
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }

 private:
  std::string type_;
  std::int64_t width_;
  std::vector<Parameter> parameters_;
  std::vector<std::unique_ptr<Layer>> layers_;
  at::Tensor leaf_nD_, output_tr_;
};

}  // namespace

std::unique_ptr<Gnn> make_layered_gnn(const GnnConfig& config, std::int64_t embedding_width,
                                      const at::TensorOptions& options, std::uint64_t seed) {
  return std::make_unique<LayeredGnn>(config, embedding_width, options, seed);
}

}  // namespace graphlora
