// The five GNNs as dense matrix products on one process, straight from their definitions: what
// sharded ones are compared with. Shapes: N nodes, D = d_e, r rank, K heads, C width of a head.
#pragma once
#include <torch/types.h>

#include <map>
#include <string>

#include "model/gnn.hpp"

namespace graphlora::test {

using Weights = std::map<std::string, at::Tensor>;

inline at::Tensor safe_power(const at::Tensor& degree_N1, double exponent) {
  return at::where(degree_N1 > 0, degree_N1.clamp_min(1).pow(exponent), at::zeros_like(degree_N1));
}

inline at::Tensor dense_gat_layer(const at::Tensor& a_NN, const at::Tensor& x_NI, const Weights& w,
                                  const std::string& layer, std::int64_t heads, bool last) {
  const at::Tensor h_NO =
      at::linear(x_NI, w.at(layer + "linear.weight"), w.at(layer + "linear.bias"));
  const std::int64_t width = h_NO.size(1) / heads;
  std::vector<at::Tensor> outputs;
  for (std::int64_t k = 0; k < heads; ++k) {
    const auto part = [&](const at::Tensor& v) { return v.slice(-1, k * width, (k + 1) * width); };
    const at::Tensor h_NC = part(h_NO);
    const at::Tensor dst_N1 = at::mv(h_NC, part(w.at(layer + "attention_dst"))).unsqueeze(1);
    const at::Tensor src_1N = at::mv(h_NC, part(w.at(layer + "attention_src"))).unsqueeze(0);
    const at::Tensor score_NN =
        at::leaky_relu(dst_N1 + src_1N + w.at(layer + "attention_bias")[k], 0.2);
    const at::Tensor weight_NN = score_NN.exp() * a_NN;
    const at::Tensor sum_N1 = weight_NN.sum(1, true);
    const at::Tensor alpha_NN = weight_NN / at::where(sum_N1 > 0, sum_N1, at::ones_like(sum_N1));
    outputs.push_back(at::mm(alpha_NN, h_NC));
  }
  if (last) return at::stack(outputs).mean(0);
  return at::elu(at::cat(outputs, 1));
}

/// g of all nodes. `w`: parameters by name, of an autograd graph or not.
inline at::Tensor dense_gnn(const GnnConfig& config, const at::Tensor& a_NN, const at::Tensor& e_ND,
                            const Weights& w) {
  const at::Tensor degree_N1 = a_NN.sum(1, true);
  const at::Tensor root_N1 = safe_power(degree_N1, -0.5);
  const at::Tensor s_NN = root_N1 * a_NN * root_N1.t();
  at::Tensor x = e_ND;
  if (config.type == "lightgcn") {
    at::Tensor sum = x;
    for (std::int64_t k = 0; k < config.layers; ++k) sum = sum + (x = at::mm(s_NN, x));
    return at::linear(sum / static_cast<double>(config.layers + 1), w.at("neck.weight"),
                      w.at("neck.bias"));
  }
  const at::Tensor eye_NN = at::eye(a_NN.size(0), a_NN.options());
  const at::Tensor root1_N1 = (degree_N1 + 1).rsqrt();
  const at::Tensor looped_NN = root1_N1 * (a_NN + eye_NN) * root1_N1.t();
  const at::Tensor mean_NN = safe_power(degree_N1, -1) * a_NN;
  for (std::int64_t k = 0; k < config.layers; ++k) {
    const bool last = k + 1 == config.layers;
    const std::string layer = "gnn.layers." + std::to_string(k) + ".";
    const auto linear = [&](const at::Tensor& input, const std::string& name) {
      return at::linear(input, w.at(layer + name + ".weight"), w.at(layer + name + ".bias"));
    };
    if (config.type == "ngcf") {
      const at::Tensor sx = at::mm(s_NN, x);
      x = at::leaky_relu(linear(x + sx, "w1") + linear(sx * x, "w2"), 0.2);
    } else if (config.type == "gcn") {
      x = at::mm(looped_NN, at::mm(x, w.at(layer + "linear.weight").t())) +
          w.at(layer + "linear.bias");
      if (!last) x = x.relu();
    } else if (config.type == "graphsage") {
      x = linear(x, "self") + linear(at::mm(mean_NN, x), "neighbor");
      if (!last) x = x.relu();
    } else {
      x = dense_gat_layer(a_NN, x, w, layer, config.heads, last);
    }
  }
  return x;
}

/// z of all nodes: 0.1·g/‖g‖, 0 for nodes without edges.
inline at::Tensor dense_z(const at::Tensor& g_Nr, const at::Tensor& a_NN) {
  const at::Tensor connected_N1 = a_NN.sum(1, true).gt(0).to(g_Nr.scalar_type());
  return 0.1 * connected_N1 * g_Nr /
         at::linalg_vector_norm(g_Nr, 2, at::IntArrayRef{1}, true).clamp_min(1e-12);
}

}  // namespace graphlora::test
