// A pretrained LLM as an HF directory: config.json and model.safetensors, every shape checked.
// Shapes: V vocabulary, H hidden, I intermediate, Q = heads·head_dim, K = kv_heads·head_dim.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/precision.hpp"
#include "core/safetensors.hpp"

namespace graphlora {

/// What a Llama-family decoder needs of config.json.
struct LlamaConfig {
  std::string model_type;
  std::int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, layers = 0, heads = 0,
               kv_heads = 0, head_dim = 0;
  std::int64_t max_positions = 0;
  double rms_norm_eps = 1e-5, rope_theta = 10000;
  bool tied_embeddings = false;
};

/// Reads and checks config.json. Throws DataError: not LlamaForCausalLM, absurd sizes, biases, rope
/// scaling, another activation than silu.
LlamaConfig read_llama_config(const std::filesystem::path& path);

/// Frozen weights of one decoder layer; q, k, v and gate, up are stacked along their output
/// features.
struct LayerWeights {
  at::Tensor qkv_OH;  ///< (Q+2K, H)
  at::Tensor o_HQ;
  at::Tensor gate_up_OH;  ///< (2I, H)
  at::Tensor down_HI;
  at::Tensor input_norm_H, post_attention_norm_H;
};
struct BaseWeights {
  at::Tensor embedding_VH;
  std::vector<LayerWeights> layers;
  at::Tensor final_norm_H;
  at::Tensor head_2H;  ///< rows Yes, No of the LM head
};

class HfCheckpoint {
 public:
  /// Throws DataError, ShapeError: missing or damaged files, absurd sizes, unsupported architecture
  /// (named, with the supported ones) or rope scaling.
  explicit HfCheckpoint(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const LlamaConfig& config() const { return config_; }
  /// Hash of config and of tensor names, shapes and file size; goes into manifests.
  const std::string& fingerprint() const { return fingerprint_; }
  /// Loads all weights in `precision.activation`, without a second copy in another type. Throws
  /// DataError on NaN.
  BaseWeights load(const Precision& precision, std::int32_t yes_token, std::int32_t no_token) const;

 private:
  std::filesystem::path directory_;
  LlamaConfig config_;
  std::string fingerprint_;
  std::vector<SafetensorsReader> files_;
};

}  // namespace graphlora
