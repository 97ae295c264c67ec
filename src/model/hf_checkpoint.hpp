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

/// Where an HF directory has its weights, or says which files have them.
inline constexpr const char* kHfWeightsFile = "model.safetensors";
inline constexpr const char* kHfIndexFile = "model.safetensors.index.json";

/// How rotary frequencies are stretched beyond the positions a model was pretrained on (see
/// RotaryTable).
struct RopeScaling {
  enum class Type : std::uint8_t { none, linear, llama3 } type = Type::none;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_positions = 0;
  bool operator==(const RopeScaling&) const = default;
};

struct ModelSlice;

/// What a Llama-family decoder needs of config.json.
struct LlamaConfig {
  std::string model_type;
  std::int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, layers = 0, heads = 0,
               kv_heads = 0, head_dim = 0;
  std::int64_t max_positions = 0;  ///< with linear scaling: the stretched ones
  double rms_norm_eps = 1e-5, rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool qkv_bias = false;  ///< q_proj, k_proj, v_proj have biases (Qwen2)
  bool qk_norm = false;   ///< RMSNorm over each query and key head (Qwen3)
  /// Keys a query sees, itself included; 0: all. Per layer, or empty: all in every layer.
  std::vector<std::int64_t> attention_window;
  std::int64_t window(std::int64_t layer) const {
    return attention_window.empty() ? 0 : attention_window[static_cast<std::size_t>(layer)];
  }
};

/// Reads and checks config.json; fields that are missing have the defaults of HF's configuration
/// class (docs/models.md). Throws DataError: an unsupported architecture, rope type, activation,
/// bias or quantization (named, with what is supported), absurd or contradictory values.
LlamaConfig read_llama_config(const std::filesystem::path& path);

/// Frozen weights of one decoder layer, or a rank's slices of them: Q, K and I are then the
/// slice's. q, k, v and gate, up are stacked along their output features.
struct LayerWeights {
  at::Tensor qkv_OH;  ///< (Q+2K, H)
  at::Tensor o_HQ;
  at::Tensor gate_up_OH;  ///< (2I, H)
  at::Tensor down_HI;
  at::Tensor input_norm_H, post_attention_norm_H;
  at::Tensor qkv_bias_O = {};               ///< undefined without LlamaConfig::qkv_bias
  at::Tensor q_norm_D = {}, k_norm_D = {};  ///< undefined without LlamaConfig::qk_norm
};
struct BaseWeights {
  at::Tensor embedding_VH;
  std::vector<LayerWeights> layers;
  at::Tensor final_norm_H;
  at::Tensor head_2H;  ///< rows Yes, No of the LM head
  /// Bytes of the files that loading copied or looked through: the slices' own, the replicated
  /// tensors' and this rank's part of the search for NaN in the embedding. Not the rest of the
  /// pages they lie on, which matters for slices by columns whose rows are shorter than a page:
  /// the ranks of a tensor group share a host, so its page cache reads them once for all.
  std::uint64_t bytes_read = 0;
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
  /// Type of embed_tokens in the files.
  at::ScalarType stored_type() const;
  /// The files that hold the weights.
  const std::vector<SafetensorsReader>& files() const { return files_; }
  /// Loads the weights of `slice` in `precision.activation` on `precision.device`, without a second
  /// copy in another type, and reads no others. Local. Throws DataError on NaN in them (in the
  /// embedding: in this rank's part of its rows, so the ranks must agree on failure).
  BaseWeights load(const Precision& precision, std::int32_t yes_token, std::int32_t no_token,
                   const ModelSlice& slice) const;
  /// All of the model.
  BaseWeights load(const Precision& precision, std::int32_t yes_token, std::int32_t no_token) const;

 private:
  std::filesystem::path directory_;
  LlamaConfig config_;
  std::string fingerprint_;
  std::vector<SafetensorsReader> files_;
};

}  // namespace graphlora
