#include "model/llm_memory.hpp"

#include <algorithm>

namespace graphlora {
namespace {

constexpr std::int64_t kTokensOfPartialSum = 128;  // lora_linear adds dA up by blocks of so many

struct Adapted {
  bool q, k, v, o, gate, up, down;
  explicit Adapted(const LoraConfig& lora) {
    const auto has = [&](const char* name) {
      return std::find(lora.targets.begin(), lora.targets.end(), name) != lora.targets.end();
    };
    q = has("q_proj");
    k = has("k_proj");
    v = has("v_proj");
    o = has("o_proj");
    gate = has("gate_proj");
    up = has("up_proj");
    down = has("down_proj");
  }
};

std::int64_t adapter_elements(const LlamaConfig& c, const ModelSlice& slice,
                              const LoraConfig& lora) {
  const Adapted adapted(lora);
  const std::int64_t hidden = c.hidden_size, q = slice.heads * c.head_dim,
                     kv = slice.groups * c.head_dim;
  std::int64_t inputs_and_outputs = 0;
  if (adapted.q) inputs_and_outputs += hidden + q;
  for (const bool on : {adapted.k, adapted.v}) inputs_and_outputs += on ? hidden + kv : 0;
  if (adapted.o) inputs_and_outputs += q + hidden;
  for (const bool on : {adapted.gate, adapted.up, adapted.down})
    inputs_and_outputs += on ? hidden + slice.columns : 0;
  return inputs_and_outputs * lora.rank * c.layers;
}

}  // namespace

LlmMemory predict_llm_memory(const LlamaConfig& c, const ModelSlice& slice, const LoraConfig& lora,
                             const Precision& precision, const LlmStep& step) {
  const auto bytes = [](at::ScalarType type) {
    return static_cast<std::int64_t>(c10::elementSize(type));
  };
  const std::int64_t type = bytes(precision.activation), number = bytes(precision.parameter);
  const std::int64_t hidden = c.hidden_size, q = slice.heads * c.head_dim,
                     kv = slice.groups * c.head_dim, qkv = q + 2 * kv, columns = slice.columns;
  const Adapted adapted(lora);
  const std::int64_t qkv_ranks = lora.rank * (adapted.q + adapted.k + adapted.v),
                     gate_up_ranks = lora.rank * (adapted.gate + adapted.up);

  LlmMemory memory;
  const std::int64_t layer_weights = (qkv + q + 3 * columns + 2) * hidden + (c.qkv_bias ? qkv : 0) +
                                     (c.qk_norm ? 2 * c.head_dim : 0);
  memory.weights = type * (layer_weights * c.layers + 3 * hidden);
  if (step.packed) memory.packed = 2 * type * (qkv + q + 3 * columns) * hidden * c.layers;
  if (!step.embedding_mapped) memory.embedding = type * c.vocab_size * hidden;
  memory.adapters = number * adapter_elements(c, slice, lora) * (step.moments ? 4 : 2);

  // Per token, what the Functions of a layer save: the normalizations their inputs and one number
  // each, adapted linears their inputs and A·x, attention q, k, v and a number per head, SwiGLU
  // gate and up.
  std::int64_t layer = type * (2 * hidden + qkv + 2 * columns) + number * (2 + slice.heads);
  if (qkv_ranks > 0) layer += type * hidden + number * qkv_ranks;
  if (adapted.o) layer += type * q + number * lora.rank;
  if (gate_up_ranks > 0) layer += type * hidden + number * gate_up_ranks;
  if (adapted.down) layer += type * columns + number * lora.rank;
  if (c.qk_norm) layer += type * (q + kv) + number * (slice.heads + slice.groups);
  // The kernels of a GPU read attention's output again.
  if (!precision.device.is_cpu() && !adapted.o) layer += type * q;
  // The last layer: keys and values only.
  std::int64_t last = type * (hidden + 2 * kv) + number;
  if (adapted.k || adapted.v) last += type * hidden + number * lora.rank * (adapted.k + adapted.v);
  // At work: forward has what its layer has not given back yet and does not save (what is
  // normalized, the stacked q, k, v, attention's and the MLP's outputs), backward the gradients
  // around the MLP (less the input of down, given back by then) or around attention, and the sums
  // of dA by blocks of tokens. All-reduces over the tensor ranks take bf16 as fp32.
  const std::int64_t reduced = slice.size > 1 && type < number ? number * hidden : 0;
  const std::int64_t partial_sums =
      std::max({qkv_ranks * hidden, gate_up_ranks * hidden, adapted.o ? lora.rank * q : 0,
                adapted.down ? lora.rank * columns : 0}) /
      kTokensOfPartialSum;
  const std::int64_t forward =
      reduced + type * (hidden + qkv + (adapted.o ? 0 : q) + (adapted.down ? 0 : columns) +
                        (qkv_ranks > 0 ? 0 : hidden) + (gate_up_ranks > 0 ? 0 : hidden));
  const std::int64_t backward =
      reduced + type * (2 * hidden + std::max((adapted.down ? 2 : 3) * columns, 2 * qkv)) +
      number * (qkv_ranks + partial_sums);

  const std::int64_t full_layers = c.layers - 1;
  std::int64_t kept = 0, work = 0;
  if (step.recompute) {
    // One layer at a time has everything; it stands beside the inputs of those before it.
    kept = full_layers * type * hidden;
    work = std::max(last, layer + std::max(forward, backward));
  } else {
    kept = full_layers * layer;
    work = std::max({last, forward, backward});
  }
  memory.activations = step.tokens * kept;
  memory.workspace = step.tokens * work;
  return memory;
}

}  // namespace graphlora
