// Shapes: I inputs, O outputs, r rank.
#include "model/lora.hpp"

#include <cmath>

#include "core/error.hpp"
#include "model/init.hpp"

namespace graphlora {
namespace {

struct TargetShape {
  const char* block;  // HF's submodule
  std::int64_t inputs, outputs;
  Placement a, b;
};

TargetShape shape_of(const LlamaConfig& c, Target target) {
  const std::int64_t q = c.heads * c.head_dim, k = c.kv_heads * c.head_dim;
  const auto column = [](const char* block, std::int64_t inputs, std::int64_t outputs) {
    return TargetShape{block, inputs, outputs, Placement::lora_a_column, Placement::lora_b_column};
  };
  switch (target) {
    case Target::q_proj:
      return column("self_attn", c.hidden_size, q);
    case Target::k_proj:
    case Target::v_proj:
      return column("self_attn", c.hidden_size, k);
    case Target::gate_proj:
    case Target::up_proj:
      return column("mlp", c.hidden_size, c.intermediate_size);
    case Target::o_proj:
      return {"self_attn", q, c.hidden_size, Placement::lora_a_row, Placement::lora_b_row};
    case Target::down_proj:
      return {"mlp", c.intermediate_size, c.hidden_size, Placement::lora_a_row,
              Placement::lora_b_row};
  }
  TORCH_CHECK(false, "unknown target");
}

}  // namespace

LoraAdapters::LoraAdapters(const LlamaConfig& model, const LoraConfig& config,
                           const Precision& precision, std::uint64_t seed)
    : config_(config), factors_(model.layers), inject_(model.layers, false) {
  if (config.rank < 1 || config.rank > 1024)
    throw ConfigError("--lora.rank {}: must be from 1 to 1024", config.rank);
  if (!std::isfinite(config.alpha))
    throw ConfigError("--lora.alpha {}: must be finite", config.alpha);
  if (!(config.dropout >= 0 && config.dropout <= 0.99)) {
    throw ConfigError("--lora.dropout {}: must be from 0 to 0.99", config.dropout);
  }
  std::array<bool, kTargetNames.size()> adapted{};
  for (const std::string& target : config.targets) {
    const auto found = std::find(kTargetNames.begin(), kTargetNames.end(), target);
    if (found == kTargetNames.end()) {
      throw ConfigError("--lora.targets {}: unknown target; known: {}", target,
                        fmt::join(kTargetNames, ","));
    }
    adapted[found - kTargetNames.begin()] = true;
  }
  for (const std::int64_t layer : config.inject_layers) {
    if (layer < 0 || layer >= model.layers) {
      throw ConfigError("--inject.layers {}: the model has layers 0 to {}", layer,
                        model.layers - 1);
    }
    inject_[layer] = true;
  }
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    for (std::size_t t = 0; t < kTargetNames.size(); ++t) {
      if (!adapted[t]) continue;
      const TargetShape shape = shape_of(model, static_cast<Target>(t));
      const std::string name = fmt::format("base_model.model.model.layers.{}.{}.{}", layer,
                                           shape.block, kTargetNames[t]);
      LoraFactors& factors = factors_[layer][t];
      const std::string a_name = name + ".lora_A.weight";
      // PEFT's start: Kaiming with a = √5.
      factors.a_rI = uniform_parameter({config.rank, shape.inputs},
                                       1 / std::sqrt(static_cast<double>(shape.inputs)),
                                       precision.parameter, seed, a_name);
      factors.b_Or =
          at::zeros({shape.outputs, config.rank}, at::TensorOptions().dtype(precision.parameter));
      parameters_.push_back({a_name, factors.a_rI, shape.a});
      parameters_.push_back({name + ".lora_B.weight", factors.b_Or.requires_grad_(true), shape.b});
    }
  }
  const auto scalar = [&](double value) {
    return at::full({}, value, at::TensorOptions().dtype(precision.parameter));
  };
  lambda_lora_ = scalar(config.lambda_lora);
  lambda_gnn_ = scalar(config.lambda_gnn);
  if (config.learn_lambda) {
    parameters_.push_back(
        {"lambda_lora", lambda_lora_.requires_grad_(true), Placement::lambda, false});
    parameters_.push_back(
        {"lambda_gnn", lambda_gnn_.requires_grad_(true), Placement::lambda, false});
  }
}

}  // namespace graphlora
