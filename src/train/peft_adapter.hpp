// A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors.
// Shapes: I inputs, O outputs, r rank.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/safetensors.hpp"
#include "dist/parameter.hpp"

namespace graphlora {

/// What PEFT puts before the names of the base model's linears.
inline constexpr std::string_view kPeftPrefix = "base_model.model.";

class PeftAdapter {
 public:
  /// Throws DataError: missing or damaged files, a kind of adapter that is not plain LoRA of one
  /// rank on whole linears of every layer (DoRA, rsLoRA, biases, modules_to_save, patterns …, by
  /// the name of what asks for it), tensors that are not A and B of its targets.
  explicit PeftAdapter(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  std::int64_t rank() const { return rank_; }
  double alpha() const { return alpha_; }
  double scale() const { return alpha_ / static_cast<double>(rank_); }
  /// HF's names, in the order of kTargetNames.
  const std::vector<std::string>& targets() const { return targets_; }
  /// Adapted linears by HF's names, such as model.layers.0.self_attn.q_proj.
  const std::set<std::string>& linears() const { return linears_; }
  /// SHA-256 of the weights.
  std::string fingerprint() const;

  /// As stored. The linear must be one of `linears`.
  at::Tensor a_rI(const std::string& linear) const;
  at::Tensor b_Or(const std::string& linear) const;

  /// Copies the values into all LoRA parameters of a model (what else trains stays), narrowed to
  /// the rank's slice, in the parameters' type. Throws DataError (a tensor missing, one too many,
  /// NaN), ShapeError (another rank or base model). Local.
  void load(const std::vector<Parameter>& parameters) const;

 private:
  std::filesystem::path directory_;
  std::int64_t rank_ = 0;
  double alpha_ = 0;
  std::vector<std::string> targets_;
  std::set<std::string> linears_;
  std::optional<SafetensorsReader> weights_;
};

}  // namespace graphlora
