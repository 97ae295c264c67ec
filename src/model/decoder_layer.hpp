// One decoder layer: attention and gated MLP with adapters.
// Shapes: T tokens, S scored tokens, H hidden, A anchors.
#pragma once
#include <torch/types.h>

#include <vector>

#include "model/attention.hpp"
#include "model/hf_checkpoint.hpp"
#include "model/lora.hpp"
#include "model/lora_linear.hpp"
#include "model/model_slice.hpp"
#include "model/rotary.hpp"

namespace graphlora {

/// Tokens that a linear reads, and the anchors among them.
struct TokenRows {
  at::Tensor streams_T, positions_T;  ///< i64
  at::Tensor anchor_token_A;          ///< i64 rows
  at::Tensor z_Ar;                    ///< undefined: no injection
  at::Tensor anchor_examples_A = {};  ///< see Pack
};

/// What all layers of a forward share.
struct DecoderInputs {
  AttentionPlan attention;         ///< of all tokens
  AttentionPlan scored_attention;  ///< of the scored ones, for the last layer
  at::Tensor scored_token_S;       ///< i64, their tokens in the pack, where the model is
  TokenRows all = {};
  TokenRows scored = {};  ///< the last layer's, behind its keys and values
  DropoutKey dropout = {};
  at::Tensor ratio_sums_2 = {};  ///< see Injection
};

/// Layers of a model, by exact index. Each rank of a tensor group computes the heads and MLP
/// columns of its slice; what enters and leaves a layer is whole on all of them.
class Decoder {
 public:
  /// All by reference; `tensor` may be null where the slice is all of the model, `packs` where ATen
  /// multiplies.
  Decoder(const LlamaConfig& config, const ModelSlice& slice, Communicator* tensor,
          const BaseWeights& weights, PackedWeights* packs, const LoraAdapters& adapters,
          const RotaryTable& rotary)
      : config_(config),
        slice_(slice),
        tensor_(tensor),
        weights_(weights),
        packs_(packs),
        adapters_(adapters),
        rotary_(rotary) {}

  /// x_TH → x_TH. Collective over the tensor group, as is its backward; differentiable; saves what
  /// its parts' Functions save.
  at::Tensor layer(std::int64_t layer, const at::Tensor& x_TH, const DecoderInputs& inputs) const;
  /// The last layer, which only needs its outputs at the scored tokens: x_TH → x_SH.
  at::Tensor last_layer(const at::Tensor& x_TH, const DecoderInputs& inputs) const;

 private:
  /// Outputs of a stacked weight, one entry per linear in it.
  struct Linear {
    Target target;
    std::int64_t outputs;
  };
  BaseLinear by_columns(const at::Tensor& weight, const at::Tensor& bias = {}) const;
  BaseLinear by_rows(const at::Tensor& weight, std::int64_t first_input) const;
  at::Tensor adapted(std::int64_t layer, const at::Tensor& x, const BaseLinear& base,
                     const at::Tensor& residual, const std::vector<Linear>& linears,
                     InputGroup group, const TokenRows& rows, const DecoderInputs& inputs) const;
  /// `adapted` for each linear of a stack by itself: the plain path of Shortcut::products.
  at::Tensor one_by_one(std::int64_t layer, const at::Tensor& x, const BaseLinear& base,
                        const std::vector<Linear>& linears, InputGroup group, const TokenRows& rows,
                        const DecoderInputs& inputs) const;
  at::Tensor output_and_mlp(std::int64_t layer, const at::Tensor& stream, const at::Tensor& o,
                            const TokenRows& rows, const DecoderInputs& inputs) const;

  const LlamaConfig& config_;
  const ModelSlice& slice_;
  Communicator* tensor_;
  const BaseWeights& weights_;
  PackedWeights* packs_;
  const LoraAdapters& adapters_;
  const RotaryTable& rotary_;
};

}  // namespace graphlora
