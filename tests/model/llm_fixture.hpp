// Models and packs for the tests of the LLM side.
#pragma once
#include <torch/types.h>

#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "data/pack.hpp"
#include "model/graphlora.hpp"

namespace graphlora::testing {

inline std::filesystem::path golden_directory() { return "tests/golden"; }

/// The shape of tests/golden/tiny_llama: 9 heads in 3 groups.
inline LlamaConfig tiny_config() {
  LlamaConfig c;
  c.model_type = "llama";
  c.vocab_size = 300;
  c.hidden_size = 36;
  c.intermediate_size = 50;
  c.layers = 3;
  c.heads = 9;
  c.kv_heads = 3;
  c.head_dim = 4;
  c.max_positions = 256;
  return c;
}

/// A tiny model of each family, 9 heads in 3 groups: "llama" (llama3 rope scaling), "mistral" (a
/// window of 5), "qwen2" (biases, a window in the last two layers), "qwen3" (norms of q and k,
/// heads wider than hidden/heads).
inline LlamaConfig tiny_config(const std::string& family) {
  LlamaConfig c = tiny_config();
  c.model_type = family;
  if (family == "llama") {
    c.rope_scaling = {RopeScaling::Type::llama3, 8, 1, 4, 16};
  } else if (family == "mistral") {
    c.attention_window.assign(3, 5);
  } else if (family == "qwen2") {
    c.qkv_bias = true;
    c.attention_window = {0, 6, 6};
  } else if (family == "qwen3") {
    c.qk_norm = true;
    c.head_dim = 6;
  } else {
    throw std::invalid_argument("no family " + family);
  }
  return c;
}
inline const std::vector<std::string>& families() {
  static const std::vector<std::string> all{"llama", "mistral", "qwen2", "qwen3"};
  return all;
}

/// Random weights of any shape in `type`, embeddings of unit size.
inline BaseWeights random_weights(const LlamaConfig& c, at::ScalarType type) {
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}).div_(std::sqrt(static_cast<double>(columns))).to(type);
  };
  const std::int64_t q = c.heads * c.head_dim, k = c.kv_heads * c.head_dim;
  const auto norm = [&](std::int64_t size) { return at::rand({size}).add_(0.5).to(type); };
  BaseWeights w;
  w.embedding_VH = at::randn({c.vocab_size, c.hidden_size}).to(type);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    w.layers.push_back({matrix(q + 2 * k, c.hidden_size), matrix(c.hidden_size, q),
                        matrix(2 * c.intermediate_size, c.hidden_size),
                        matrix(c.hidden_size, c.intermediate_size), norm(c.hidden_size),
                        norm(c.hidden_size)});
    if (c.qkv_bias) w.layers.back().qkv_bias_O = at::randn({q + 2 * k}).mul_(0.5).to(type);
    if (c.qk_norm) {
      w.layers.back().q_norm_D = norm(c.head_dim);
      w.layers.back().k_norm_D = norm(c.head_dim);
    }
  }
  w.final_norm_H = norm(c.hidden_size);
  w.head_2H = matrix(2, c.hidden_size);
  return w;
}

/// The same weights in another type.
inline BaseWeights cast(BaseWeights w, at::ScalarType type) {
  for (LayerWeights& l : w.layers) {
    for (at::Tensor* t : {&l.qkv_OH, &l.o_HQ, &l.gate_up_OH, &l.down_HI, &l.input_norm_H,
                          &l.post_attention_norm_H, &l.qkv_bias_O, &l.q_norm_D, &l.k_norm_D}) {
      if (t->defined()) *t = t->to(type);
    }
  }
  for (at::Tensor* t : {&w.embedding_VH, &w.final_norm_H, &w.head_2H}) *t = t->to(type);
  return w;
}

/// One prompt of a test.
struct Example {
  std::vector<std::int64_t> tokens, anchors;
  std::int64_t stream = 0;
};

/// Packs examples; anchors get the rows first_anchor, first_anchor + 1, … in order.
inline Pack pack_of(const std::vector<Example>& examples, std::int64_t first_anchor = 0) {
  Pack pack;
  std::vector<std::int64_t> tokens, positions, streams, anchor_token, anchor_row, last;
  for (const Example& e : examples) {
    const auto begin = static_cast<std::int64_t>(tokens.size()),
               length = static_cast<std::int64_t>(e.tokens.size());
    pack.segments.push_back({.begin = begin, .length = length});
    for (std::int64_t i = 0; i < length; ++i) {
      tokens.push_back(e.tokens[i]);
      positions.push_back(i);
      streams.push_back(e.stream);
    }
    for (const std::int64_t a : e.anchors) {
      anchor_row.push_back(first_anchor + static_cast<std::int64_t>(anchor_token.size()));
      anchor_token.push_back(begin + a);
    }
    last.push_back(begin + length - 1);
  }
  pack.tokens_T = at::tensor(tokens, at::kLong);
  pack.positions_T = at::tensor(positions, at::kLong);
  pack.streams_T = at::tensor(streams, at::kLong);
  pack.anchor_token_A = at::tensor(anchor_token, at::kLong);
  pack.anchor_row_A = at::tensor(anchor_row, at::kLong);
  pack.last_token_S = at::tensor(last, at::kLong);
  pack.label_S = at::zeros({static_cast<std::int64_t>(examples.size())});
  return pack;
}

/// ‖a − b‖ / ‖b‖ over all elements, in fp64.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor wide = b.to(at::kDouble);
  return ((a.to(at::kDouble) - wide).norm() / wide.norm().clamp_min(1e-300)).item<double>();
}

}  // namespace graphlora::testing
