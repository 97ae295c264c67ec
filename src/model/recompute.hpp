// Activation recompute: a decoder layer that keeps only its input and runs again in the backward.
// Shapes: T tokens, H hidden.
#pragma once
#include <torch/types.h>

#include <memory>

#include "model/decoder_layer.hpp"

namespace graphlora {

/// What the second run of a forward's layers needs, alive until the backward has passed. The
/// decoder refers to the model, which must live as long.
struct LayerRun {
  Decoder decoder;
  const LoraAdapters& adapters;
  DecoderInputs inputs;
};

/// decoder.layer(layer, x_TH, inputs), with its gradients: those of x, of the layer's adapters and
/// of each thing it shares with other layers (z, a learned λ) are the same sums, so the first two
/// are bitwise what they are without recompute, and the others too where one layer injects. Dropout
/// depends on counters only, so the second run draws what the first drew; graph_ratio counts the
/// first one. Collective over the tensor group, as is the backward: it repeats the forward's
/// collectives.
at::Tensor recomputed_layer(const std::shared_ptr<const LayerRun>& run, std::int64_t layer,
                            const at::Tensor& x_TH);

}  // namespace graphlora
