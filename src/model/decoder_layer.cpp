// Shapes: T tokens, S scored tokens, H hidden, A anchors.
#include "model/decoder_layer.hpp"

#include "core/shortcuts.hpp"
#include "model/rms_norm.hpp"
#include "model/swiglu.hpp"

namespace graphlora {

BaseLinear Decoder::by_columns(const at::Tensor& weight, const at::Tensor& bias) const {
  return {weight, bias, slice_.size > 1 ? SplitBy::column : SplitBy::none, tensor_, 0, packs_};
}

BaseLinear Decoder::by_rows(const at::Tensor& weight, std::int64_t first_input) const {
  return {weight, {}, slice_.size > 1 ? SplitBy::row : SplitBy::none, tensor_, first_input, packs_};
}

at::Tensor Decoder::adapted(std::int64_t layer, const at::Tensor& x, const BaseLinear& base,
                            const at::Tensor& residual, const std::vector<Linear>& linears,
                            InputGroup group, const TokenRows& rows,
                            const DecoderInputs& inputs) const {
  if (residual.defined() && is_off(Shortcut::residual))
    return residual + adapted(layer, x, base, {}, linears, group, rows, inputs);
  if (linears.size() > 1 && is_off(Shortcut::products))
    return one_by_one(layer, x, base, linears, group, rows, inputs);
  StackedAdapters stacked;
  stacked.scale = adapters_.config().scale();
  std::vector<at::Tensor> a, b;
  std::int64_t begin = 0;
  for (const Linear& linear : linears) {
    if (const LoraFactors& factors = adapters_.at(layer, linear.target); factors.defined()) {
      a.push_back(factors.a_rI);
      b.push_back(factors.b_Or);
      stacked.slices.push_back({begin, linear.outputs});
    }
    begin += linear.outputs;
  }
  if (!a.empty()) {
    stacked.a_RI = a.size() == 1 ? a[0] : at::cat(a);
    stacked.b_Cr = b.size() == 1 ? b[0] : at::cat(b);
  }
  Injection injection;
  if (adapters_.injects(layer)) {
    injection = {rows.z_Ar,           adapters_.lambda_lora(), adapters_.lambda_gnn(),
                 rows.anchor_token_A, inputs.ratio_sums_2,     rows.anchor_examples_A};
  }
  return lora_linear(x, base, residual, stacked, injection,
                     {inputs.dropout, layer, group, rows.streams_T, rows.positions_T});
}

at::Tensor Decoder::one_by_one(std::int64_t layer, const at::Tensor& x, const BaseLinear& base,
                               const std::vector<Linear>& linears, InputGroup group,
                               const TokenRows& rows, const DecoderInputs& inputs) const {
  std::vector<at::Tensor> outputs;
  std::int64_t begin = 0;
  for (const Linear& linear : linears) {
    BaseLinear own = base;
    own.weight_OI = base.weight_OI.narrow(0, begin, linear.outputs);
    if (base.bias_O.defined()) own.bias_O = base.bias_O.narrow(0, begin, linear.outputs);
    outputs.push_back(adapted(layer, x, own, {}, {linear}, group, rows, inputs));
    begin += linear.outputs;
  }
  return at::cat(outputs, 1);
}

at::Tensor Decoder::output_and_mlp(std::int64_t layer, const at::Tensor& stream,
                                   const at::Tensor& o, const TokenRows& rows,
                                   const DecoderInputs& inputs) const {
  const LayerWeights& w = weights_.layers[layer];
  const std::int64_t hidden = config_.hidden_size, middle = slice_.columns;
  const at::Tensor attended =
      adapted(layer, o.flatten(1), by_rows(w.o_HQ, slice_.first_head * config_.head_dim), stream,
              {{Target::o_proj, hidden}}, InputGroup::o, rows, inputs);
  const Normalized mlp_input = rms_norm(attended, w.post_attention_norm_H, config_.rms_norm_eps);
  const at::Tensor gate_up = adapted(layer, mlp_input.normed_TH, by_columns(w.gate_up_OH), {},
                                     {{Target::gate_proj, middle}, {Target::up_proj, middle}},
                                     InputGroup::gate_up, rows, inputs);
  return adapted(layer, swiglu(gate_up), by_rows(w.down_HI, slice_.first_column),
                 mlp_input.stream_TH, {{Target::down_proj, hidden}}, InputGroup::down, rows,
                 inputs);
}

at::Tensor Decoder::layer(std::int64_t layer, const at::Tensor& x_TH,
                          const DecoderInputs& inputs) const {
  const LayerWeights& w = weights_.layers[layer];
  const std::int64_t heads = slice_.heads, groups = slice_.groups, dim = config_.head_dim;
  const Normalized input = rms_norm(x_TH, w.input_norm_H, config_.rms_norm_eps);
  const at::Tensor qkv = adapted(layer, input.normed_TH, by_columns(w.qkv_OH, w.qkv_bias_O), {},
                                 {{Target::q_proj, heads * dim},
                                  {Target::k_proj, groups * dim},
                                  {Target::v_proj, groups * dim}},
                                 InputGroup::qkv, inputs.all, inputs);
  const auto parts =
      split_and_rotate(qkv, {heads, groups, groups}, 2, rotary_, inputs.all.positions_T,
                       {{w.q_norm_D, w.k_norm_D}, config_.rms_norm_eps});
  const at::Tensor o =
      attention(parts[0], parts[1], parts[2], inputs.attention, config_.window(layer));
  return output_and_mlp(layer, input.stream_TH, o, inputs.all, inputs);
}

at::Tensor Decoder::last_layer(const at::Tensor& x_TH, const DecoderInputs& inputs) const {
  const std::int64_t layer = config_.layers - 1;
  const LayerWeights& w = weights_.layers[layer];
  const std::int64_t heads = slice_.heads, groups = slice_.groups, dim = config_.head_dim;
  const std::int64_t q_size = heads * dim, kv_size = groups * dim;
  const at::Tensor& scored_S = inputs.scored_token_S;
  const auto bias = [&](std::int64_t begin, std::int64_t size) {
    return w.qkv_bias_O.defined() ? w.qkv_bias_O.narrow(0, begin, size) : at::Tensor();
  };
  const Normalized input = rms_norm(x_TH, w.input_norm_H, config_.rms_norm_eps);
  const at::Tensor q = adapted(layer, input.normed_TH.index_select(0, scored_S),
                               by_columns(w.qkv_OH.narrow(0, 0, q_size), bias(0, q_size)), {},
                               {{Target::q_proj, q_size}}, InputGroup::qkv, inputs.scored, inputs);
  const at::Tensor kv = adapted(
      layer, input.normed_TH,
      by_columns(w.qkv_OH.narrow(0, q_size, 2 * kv_size), bias(q_size, 2 * kv_size)), {},
      {{Target::k_proj, kv_size}, {Target::v_proj, kv_size}}, InputGroup::qkv, inputs.all, inputs);
  const auto q_parts = split_and_rotate(q, {heads}, 1, rotary_, inputs.scored.positions_T,
                                        {{w.q_norm_D}, config_.rms_norm_eps});
  const auto kv_parts = split_and_rotate(kv, {groups, groups}, 1, rotary_, inputs.all.positions_T,
                                         {{w.k_norm_D}, config_.rms_norm_eps});
  const at::Tensor o = attention(q_parts[0], kv_parts[0], kv_parts[1], inputs.scored_attention,
                                 config_.window(layer));
  return output_and_mlp(layer, input.stream_TH.index_select(0, scored_S), o, inputs.scored, inputs);
}

}  // namespace graphlora
