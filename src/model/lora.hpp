// LoRA adapters of the seven linears, their parameters and the adapted linear.
// Shapes: T tokens, I inputs, O outputs, r rank, A anchors of the pack.
#pragma once
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "dist/parameter.hpp"
#include "model/dropout.hpp"
#include "model/hf_checkpoint.hpp"
#include "model/model_slice.hpp"

namespace graphlora {

/// The linears an adapter can sit on; names are HF's.
enum class Target : std::uint8_t { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj };
inline constexpr std::array<const char*, 7> kTargetNames{
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

inline constexpr std::int64_t kMaxLoraRank = 4096;
inline constexpr double kMaxLoraAlpha = 1e6;

struct LoraConfig {
  std::int64_t rank = 8;
  double alpha = 16, dropout = 0.05;
  std::vector<std::string> targets{"q_proj", "v_proj"};
  std::vector<std::int64_t> inject_layers;  ///< where z enters; empty: none
  double lambda_lora = 1, lambda_gnn = 0.1;
  bool learn_lambda = false;
  double scale() const { return alpha / static_cast<double>(rank); }
};

/// A and B of one linear of one layer, or a rank's slices of them; undefined where the linear is
/// not adapted.
struct LoraFactors {
  at::Tensor a_rI, b_Or;  ///< leaves in Precision::parameter
  bool defined() const { return a_rI.defined(); }
};

/// All adapters of a model, as the ranks of a tensor group hold them: B of q, k, v, gate and up has
/// the slice's outputs, A of o and down the slice's inputs, the rest is whole.
class LoraAdapters {
 public:
  /// A is Kaiming-uniform(√5) as in PEFT, drawn whole from (seed, name), then sliced; B is zero.
  /// Throws ConfigError (unknown target, layer out of range, rank < 1).
  LoraAdapters(const LlamaConfig& model, const ModelSlice& slice, const LoraConfig& config,
               const Precision& precision, std::uint64_t seed);
  const LoraConfig& config() const { return config_; }
  const LoraFactors& at(std::int64_t layer, Target target) const {
    return factors_[layer][static_cast<int>(target)];
  }
  bool injects(std::int64_t layer) const { return inject_[layer]; }
  const at::Tensor& lambda_lora() const {
    return lambda_lora_;
  }  ///< scalars; require grad if learned
  const at::Tensor& lambda_gnn() const { return lambda_gnn_; }
  /// Names as in PEFT files: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight; λ:
  /// lambda_lora, lambda_gnn.
  const std::vector<Parameter>& parameters() const { return parameters_; }

 private:
  LoraConfig config_;
  std::vector<std::array<LoraFactors, 7>> factors_;
  std::vector<bool> inject_;
  at::Tensor lambda_lora_, lambda_gnn_;
  std::vector<Parameter> parameters_;
};

}  // namespace graphlora
