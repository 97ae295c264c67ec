// What the LLM side of a training step computes.
#pragma once
#include "model/model_slice.hpp"

namespace graphlora {

/// FLOP of one token in a step: the seven linears of a rank's slice, forward and the gradient of
/// their input (frozen weights have none); of the last layer keys and values only.
double linear_flops(const LlamaConfig& config, const ModelSlice& slice);
/// Attention's, for prompts of so many tokens.
double attention_flops(const LlamaConfig& config, const ModelSlice& slice, double length);

}  // namespace graphlora
