// The recommender's LLM side: frozen decoder, LoRA adapters with injection, score at the last
// token. Shapes: T tokens of a pack, S examples, M rows of the step's anchor tensors, H hidden, r
// rank.
#pragma once
#include <torch/types.h>

#include <memory>
#include <string>

#include "data/pack.hpp"
#include "dist/communicator.hpp"
#include "model/hf_checkpoint.hpp"
#include "model/lora.hpp"
#include "model/model_slice.hpp"
#include "model/packed_weights.hpp"
#include "model/rotary.hpp"

namespace graphlora {

/// What the graph side hands to the LLM for the anchors of this rank's examples, in the order the
/// packs index them.
struct AnchorRows {
  at::Tensor
      embedding_MH;  ///< projector's output; undefined: anchors keep the unknown-word embedding 0
  at::Tensor z_Mr;   ///< undefined: no injection
};

enum class Score { margin, yes };

class GraphLora {
 public:
  /// `weights` are those of `slice`, whose other parts the ranks of `tensor` hold (kept by
  /// reference; may be null where the slice is all of the model). Adapters are drawn from (seed,
  /// name).
  GraphLora(const LlamaConfig& config, BaseWeights weights, const LoraConfig& lora,
            const Precision& precision, std::uint64_t seed, Score score, const ModelSlice& slice,
            Communicator* tensor);
  /// All of the model on this rank.
  GraphLora(const LlamaConfig& config, BaseWeights weights, const LoraConfig& lora,
            const Precision& precision, std::uint64_t seed, Score score);
  ~GraphLora();

  /// Scores of the pack's examples, fp32 (fp64 in an fp64 run), with an autograd graph to the
  /// adapters and the anchor rows (none under NoGradGuard). Activations freed as the backward goes.
  /// Collective over the tensor group, as is the backward; all its ranks pass the same.
  at::Tensor forward(const Pack& pack, const AnchorRows& anchors, const DropoutKey& dropout);

  /// Whether forwards with autograd keep only each layer's input (but for the last layer, whose
  /// backward comes first) and the backward runs the layers again; off at first.
  void set_recompute(bool recompute) { recompute_ = recompute; }
  LoraAdapters& adapters() { return adapters_; }
  const LlamaConfig& config() const { return config_; }
  const ModelSlice& slice() const { return slice_; }
  const Precision& precision() const { return precision_; }
  /// Sums over injected anchors, layers and adapters of forwards with autograd since the last call:
  /// Σ‖λ_gnn·z‖², Σ‖λ_lora·A·x‖² (f64 tensor of 2), for graph_ratio.
  at::Tensor take_ratio_sums();

 private:
  /// Grows the rotary table to at least `positions`. Throws ConfigError beyond the model's own
  /// limit.
  void require_positions(std::int64_t positions);

  LlamaConfig config_;
  ModelSlice slice_;
  Communicator* tensor_;
  BaseWeights weights_;
  PackedWeights packs_;
  Precision precision_;
  Score score_;
  LoraAdapters adapters_;
  at::Tensor ratio_sums_;
  bool recompute_ = false;
  RotaryTable rotary_;
};

}  // namespace graphlora
