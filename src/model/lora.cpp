// Shapes: I inputs, O outputs, r rank.
#include "model/lora.hpp"

#include <cmath>

#include "core/error.hpp"
#include "model/init.hpp"

namespace graphlora {
namespace {

/// A linear and what a rank holds of it: `size` outputs or, of o and down, inputs from `begin` on.
struct TargetShape {
  const char* block;  // HF's submodule
  std::int64_t inputs, outputs;
  std::int64_t begin, size;
  bool by_rows;

  Placement a() const { return by_rows ? Placement::lora_a_row : Placement::lora_a_column; }
  Placement b() const { return by_rows ? Placement::lora_b_row : Placement::lora_b_column; }
};

TargetShape shape_of(const LlamaConfig& c, const ModelSlice& s, Target target) {
  const std::int64_t dim = c.head_dim, q = c.heads * dim, k = c.kv_heads * dim;
  switch (target) {
    case Target::q_proj:
      return {"self_attn", c.hidden_size, q, s.first_head * dim, s.heads * dim, false};
    case Target::k_proj:
    case Target::v_proj:
      return {"self_attn", c.hidden_size, k, s.first_group * dim, s.groups * dim, false};
    case Target::gate_proj:
    case Target::up_proj:
      return {"mlp", c.hidden_size, c.intermediate_size, s.first_column, s.columns, false};
    case Target::o_proj:
      return {"self_attn", q, c.hidden_size, s.first_head * dim, s.heads * dim, true};
    case Target::down_proj:
      return {"mlp", c.intermediate_size, c.hidden_size, s.first_column, s.columns, true};
  }
  TORCH_CHECK(false, "unknown target");
}

}  // namespace

LoraAdapters::LoraAdapters(const LlamaConfig& model, const ModelSlice& slice,
                           const LoraConfig& config, const Precision& precision, std::uint64_t seed)
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
      const TargetShape shape = shape_of(model, slice, static_cast<Target>(t));
      const std::string name = fmt::format("base_model.model.model.layers.{}.{}.{}", layer,
                                           shape.block, kTargetNames[t]);
      LoraFactors& factors = factors_[layer][t];
      const std::string a_name = name + ".lora_A.weight";
      // PEFT's start: Kaiming with a = √5.
      factors.a_rI = uniform_parameter({config.rank, shape.inputs},
                                       1 / std::sqrt(static_cast<double>(shape.inputs)),
                                       precision.parameter_options(), seed, a_name);
      if (shape.by_rows && slice.size > 1) {
        factors.a_rI =
            factors.a_rI.detach().narrow(1, shape.begin, shape.size).clone().requires_grad_(true);
      }
      factors.b_Or = at::zeros({shape.by_rows ? shape.outputs : shape.size, config.rank},
                               precision.parameter_options())
                         .requires_grad_(true);
      Parameter a{a_name, factors.a_rI, shape.a()};
      Parameter b{name + ".lora_B.weight", factors.b_Or, shape.b()};
      if (slice.size > 1) {
        if (shape.by_rows)
          a.slice = {1, shape.begin, shape.inputs};
        else
          b.slice = {0, shape.begin, shape.outputs};
      }
      parameters_.push_back(std::move(a));
      parameters_.push_back(std::move(b));
    }
  }
  const auto scalar = [&](double value) {
    return at::full({}, value, precision.parameter_options());
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
