// Shapes: T tokens of a pack, S examples, M rows of the step's anchor tensors, A anchors of the
// pack, H hidden, r rank.
#include "model/graphlora.hpp"

#include <bit>

#include "core/error.hpp"
#include "core/shortcuts.hpp"
#include "core/tensor_view.hpp"
#include "model/decoder_layer.hpp"
#include "model/recompute.hpp"
#include "model/rms_norm.hpp"

namespace graphlora {
namespace {

/// Anchors that are scored tokens themselves, as rows among the scored ones.
TokenRows scored_rows(const TokenRows& all, const Pack& pack) {
  const at::Device device = all.streams_T.device();
  const at::Tensor& scored_S = pack.last_token_S;
  TokenRows rows{pack.streams_T.index_select(0, scored_S).to(device),
                 pack.positions_T.index_select(0, scored_S).to(device),
                 {},
                 {}};
  std::vector<std::int64_t> places, anchors;
  const auto* scored = scored_S.const_data_ptr<std::int64_t>();
  const auto* tokens = pack.anchor_token_A.const_data_ptr<std::int64_t>();
  for (std::int64_t a = 0; a < pack.anchor_token_A.size(0); ++a) {
    for (std::int64_t s = 0; s < scored_S.size(0); ++s) {
      if (scored[s] != tokens[a]) continue;
      places.push_back(s);
      anchors.push_back(a);
    }
  }
  rows.anchor_token_A = at::tensor(places, at::kLong).to(device);
  const at::Tensor picked = at::tensor(anchors, at::kLong).to(device);
  if (all.z_Ar.defined()) rows.z_Ar = all.z_Ar.index_select(0, picked);
  if (all.anchor_examples_A.defined())
    rows.anchor_examples_A = all.anchor_examples_A.index_select(0, picked);
  return rows;
}

void check_pack(const Pack& pack, const AnchorRows& anchors, const LlamaConfig& config,
                std::int64_t rank) {
  const std::int64_t tokens = pack.tokens();
  const auto within = [](const at::Tensor& index, std::int64_t end) {
    return index.scalar_type() == at::kLong && index.is_contiguous() &&
           (index.numel() == 0 ||
            (index.min().item<std::int64_t>() >= 0 && index.max().item<std::int64_t>() < end));
  };
  TORCH_CHECK(tokens > 0 && pack.positions_T.size(0) == tokens &&
                  pack.streams_T.size(0) == tokens &&
                  within(pack.positions_T, std::numeric_limits<std::int64_t>::max()) &&
                  within(pack.anchor_token_A, tokens) && within(pack.last_token_S, tokens) &&
                  pack.anchor_row_A.size(0) == pack.anchor_token_A.size(0) &&
                  (!pack.anchor_examples_A.defined() ||
                   pack.anchor_examples_A.size(0) == pack.anchor_token_A.size(0)),
              "graphlora: inconsistent pack");
  if (!within(pack.tokens_T, config.vocab_size)) {
    throw DataError(
        "a prompt holds a token outside the model's vocabulary of {} (tokenizer.json of another "
        "model?)",
        config.vocab_size);
  }
  for (const at::Tensor& rows : {anchors.embedding_MH, anchors.z_Mr}) {
    TORCH_CHECK(!rows.defined() || within(pack.anchor_row_A, rows.size(0)),
                "graphlora: anchor row out of range");
  }
  TORCH_CHECK(!anchors.embedding_MH.defined() || anchors.embedding_MH.size(1) == config.hidden_size,
              "graphlora: anchors' embeddings have the wrong width");
  TORCH_CHECK(!anchors.z_Mr.defined() || anchors.z_Mr.size(1) == rank,
              "graphlora: z must be as wide as the LoRA rank");
}

}  // namespace

GraphLora::GraphLora(const LlamaConfig& config, BaseWeights weights, const LoraConfig& lora,
                     const Precision& precision, std::uint64_t seed, Score score)
    : GraphLora(config, std::move(weights), lora, precision, seed, score, ModelSlice::whole(config),
                nullptr) {}

GraphLora::GraphLora(const LlamaConfig& config, BaseWeights weights, const LoraConfig& lora,
                     const Precision& precision, std::uint64_t seed, Score score,
                     const ModelSlice& slice, Communicator* tensor)
    : config_(config),
      slice_(slice),
      tensor_(tensor),
      weights_(std::move(weights)),
      precision_(precision),
      score_(score),
      adapters_(config, slice, lora, precision, seed),
      ratio_sums_(at::zeros({2}, at::dtype(at::kDouble).device(precision.device))) {}

GraphLora::~GraphLora() = default;

void GraphLora::require_positions(std::int64_t positions) {
  if (positions > config_.max_positions) {
    throw ConfigError(
        "a prompt of {} tokens is longer than the model's {} positions; lower --prompt.max-tokens",
        positions, config_.max_positions);
  }
  if (positions <= rotary_.positions()) return;
  const auto size = static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(positions, 512))));
  rotary_ = RotaryTable::make(std::min(size, config_.max_positions), config_.head_dim,
                              config_.rope_theta, precision_.activation, config_.rope_scaling);
  for (at::Tensor* angles : {&rotary_.cos_PD, &rotary_.sin_PD})
    *angles = angles->to(precision_.device);
}

at::Tensor GraphLora::forward(const Pack& pack, const AnchorRows& anchors,
                              const DropoutKey& dropout) {
  check_pack(pack, anchors, config_, adapters_.config().rank);
  require_positions(pack.positions_T.max().item<std::int64_t>() + 1);

  const auto here = [&](const at::Tensor& tensor) { return tensor.to(precision_.device); };
  const at::Tensor anchor_token_A = here(pack.anchor_token_A),
                   anchor_row_A = here(pack.anchor_row_A);
  DecoderInputs inputs{AttentionPlan(pack.segments),
                       AttentionPlan(pack.segments, values_of<std::int64_t>(pack.last_token_S)),
                       here(pack.last_token_S)};
  inputs.all = {here(pack.streams_T), here(pack.positions_T), anchor_token_A, {}};
  if (anchors.z_Mr.defined()) inputs.all.z_Ar = anchors.z_Mr.index_select(0, anchor_row_A);
  if (pack.anchor_examples_A.defined()) inputs.all.anchor_examples_A = here(pack.anchor_examples_A);
  inputs.scored = scored_rows(inputs.all, pack);
  inputs.dropout = dropout;
  // graph_ratio describes training steps; an evaluation between two of them must not count.
  if (at::GradMode::is_enabled()) inputs.ratio_sums_2 = ratio_sums_;

  at::Tensor x_TH = weights_.embedding_VH.index_select(0, here(pack.tokens_T));
  if (anchors.embedding_MH.defined()) {
    const at::Tensor rows_AH = anchors.embedding_MH.index_select(0, anchor_row_A);
    x_TH = x_TH.index_copy(0, anchor_token_A, rows_AH.to(precision_.activation));
  }
  // Gradients of frozen embeddings, which nobody asks for.
  if (at::GradMode::is_enabled() && !x_TH.requires_grad() && is_off(Shortcut::backward))
    x_TH.set_requires_grad(true);
  const Decoder decoder(config_, slice_, tensor_, weights_, &packs_, adapters_, rotary_);
  std::shared_ptr<const LayerRun> run;
  if (recompute_ && at::GradMode::is_enabled())
    run = std::make_shared<const LayerRun>(LayerRun{decoder, adapters_, inputs});
  for (std::int64_t layer = 0; layer + 1 < config_.layers; ++layer)
    x_TH = run ? recomputed_layer(run, layer, x_TH) : decoder.layer(layer, x_TH, inputs);
  // From here on a few rows only, so the score is computed in the parameters' precision.
  const at::Tensor x_SH =
      (is_off(Shortcut::last_layer) ? decoder.layer(config_.layers - 1, x_TH, inputs)
                                          .index_select(0, here(pack.last_token_S))
                                    : decoder.last_layer(x_TH, inputs))
          .to(precision_.parameter);
  const at::Tensor normed_SH =
      rms_norm(x_SH, weights_.final_norm_H.to(precision_.parameter), config_.rms_norm_eps)
          .normed_TH;
  const at::Tensor logits_S2 = at::mm(normed_SH, weights_.head_2H.to(precision_.parameter).t());
  return score_ == Score::margin ? logits_S2.select(1, 0) - logits_S2.select(1, 1)
                                 : logits_S2.select(1, 0);
}

at::Tensor GraphLora::take_ratio_sums() {
  at::Tensor taken = ratio_sums_;
  ratio_sums_ = at::zeros_like(taken);
  return taken;
}

}  // namespace graphlora
