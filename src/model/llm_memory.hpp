// What the LLM side of a training step keeps in memory, before it runs.
#pragma once
#include <cstdint>

#include "core/precision.hpp"
#include "model/lora.hpp"
#include "model/model_slice.hpp"

namespace graphlora {

/// Bytes of one rank.
struct LlmMemory {
  std::int64_t weights = 0;      ///< the slice's linears, norms, biases
  std::int64_t packed = 0;       ///< copies of the linears for forward and backward
  std::int64_t embedding = 0;    ///< embed_tokens, where it is not the map of the model's file
  std::int64_t adapters = 0;     ///< values, gradients, the optimizer's moments
  std::int64_t activations = 0;  ///< of one micro-batch, kept from its forward for its backward
  std::int64_t workspace = 0;    ///< what the layer at work has beside them, at its highest
  std::int64_t total() const {
    return weights + packed + embedding + adapters + activations + workspace;
  }
};

/// How a step is run.
struct LlmStep {
  std::int64_t tokens = 0;        ///< of a micro-batch
  bool recompute = false;         ///< see GraphLora::set_recompute
  bool packed = false;            ///< the linears are (PackedWeights::serve)
  bool moments = true;            ///< of the optimizer (AdamW), beside a gradient
  bool embedding_mapped = false;  ///< embed_tokens is the file's map: its pages are the system's
};

/// Of the layers' sizes and of what their Functions save (see there); the few rows behind the last
/// layer's attention, rotary tables and the libraries' own buffers do not count.
LlmMemory predict_llm_memory(const LlamaConfig& config, const ModelSlice& slice,
                             const LoraConfig& lora, const Precision& precision,
                             const LlmStep& step);

}  // namespace graphlora
