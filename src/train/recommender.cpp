#include "train/recommender.hpp"

#include <charconv>

#include "core/error.hpp"
#include "core/tensor_view.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kMaxProjectorMiddle = 1 << 20;
constexpr std::int64_t kRowsPerBlock = 1 << 16;

/// Factor per column of E that gives what the projector reads unit root mean square (bias columns:
/// 3, since two columns must stand against the many others). Collective.
at::Tensor projector_input_scale(const Workspace& workspace, const EmbeddingTable& table,
                                 bool bias_columns) {
  const std::int64_t width = table.weight_nD.size(1), rows = table.weight_nD.size(0);
  // Squares per column, rows that are not 0.
  at::Tensor sums = at::zeros({width + 1}, table.weight_nD.options().dtype(at::kDouble));
  for (std::int64_t begin = 0; begin < rows; begin += kRowsPerBlock) {
    const at::Tensor e_bD =
        table.weight_nD.slice(0, begin, std::min(begin + kRowsPerBlock, rows)).to(at::kDouble);
    sums.slice(0, 0, width).add_(e_bD.square().sum(0));
    sums[width] += e_bD.ne(0).any(1).sum();
  }
  workspace.world().all_reduce(sums, ReduceOp::sum, Traffic::control).wait();
  const at::Tensor rms_D = (sums.slice(0, 0, width) / sums[width].clamp_min(1)).sqrt();
  at::Tensor scale_D =
      at::where(rms_D > 0, rms_D.clamp_min(1e-12).reciprocal(), at::ones_like(rms_D));
  if (bias_columns && width > 2) scale_D.slice(0, width - 2, width).mul_(3);
  return scale_D;
}

/// Tokens and lengths of this rank's share of the titles: all would be the same work on every rank.
std::pair<std::vector<std::int32_t>, std::vector<std::int64_t>> share_of_titles(
    const Dataset& dataset, const Tokenizer& tokenizer, const Communicator& world) {
  const std::int64_t items = dataset.items(), ranks = world.size(), rank = world.rank();
  const TitleTokens share(dataset, tokenizer, items * rank / ranks, items * (rank + 1) / ranks);
  return {{share.tokens().begin(), share.tokens().end()}, share.lengths()};
}

}  // namespace

nlohmann::json to_json(const ModelConfig& c) {
  return {{"precision", c.precision},
          {"lora",
           {{"rank", c.lora.rank},
            {"alpha", c.lora.alpha},
            {"dropout", c.lora.dropout},
            {"targets", c.lora.targets},
            {"learn_lambda", c.lora.learn_lambda}}},
          {"inject",
           {{"layers", c.lora.inject_layers},
            {"lambda_lora", c.lora.lambda_lora},
            {"lambda_gnn", c.lora.lambda_gnn}}},
          {"gnn",
           {{"type", c.gnn.type},
            {"layers", c.gnn.layers},
            {"hidden", c.gnn.hidden},
            {"heads", c.gnn.heads},
            {"hops", c.gnn.hops},
            {"init", c.gnn.init}}},
          {"projector", {{"type", c.projector}, {"middle", c.projector_middle}}},
          {"score", c.score},
          {"prompt",
           {{"history", c.prompt.history},
            {"max_tokens", c.prompt.max_tokens},
            {"yes", c.prompt.yes},
            {"no", c.prompt.no}}},
          {"seed", c.seed}};
}

ModelConfig model_config_from_json(const nlohmann::json& json, const std::string& where) {
  ModelConfig c;
  try {
    json.at("precision").get_to(c.precision);
    const auto& lora = json.at("lora");
    lora.at("rank").get_to(c.lora.rank);
    lora.at("alpha").get_to(c.lora.alpha);
    lora.at("dropout").get_to(c.lora.dropout);
    lora.at("targets").get_to(c.lora.targets);
    lora.at("learn_lambda").get_to(c.lora.learn_lambda);
    const auto& inject = json.at("inject");
    c.inject_layers =
        fmt::format("{}", fmt::join(inject.at("layers").get<std::vector<std::int64_t>>(), ","));
    if (c.inject_layers.empty()) c.inject_layers = "none";
    inject.at("lambda_lora").get_to(c.lora.lambda_lora);
    inject.at("lambda_gnn").get_to(c.lora.lambda_gnn);
    const auto& gnn = json.at("gnn");
    gnn.at("type").get_to(c.gnn.type);
    gnn.at("layers").get_to(c.gnn.layers);
    // Checkpoints from when lightgcn was the only GNN lack these.
    c.gnn.hidden = gnn.value("hidden", c.gnn.hidden);
    c.gnn.heads = gnn.value("heads", c.gnn.heads);
    c.gnn.hops = gnn.value("hops", c.gnn.hops);
    gnn.at("init").get_to(c.gnn.init);
    json.at("projector").at("type").get_to(c.projector);
    json.at("projector").at("middle").get_to(c.projector_middle);
    json.at("score").get_to(c.score);
    const auto& prompt = json.at("prompt");
    prompt.at("history").get_to(c.prompt.history);
    prompt.at("max_tokens").get_to(c.prompt.max_tokens);
    prompt.at("yes").get_to(c.prompt.yes);
    prompt.at("no").get_to(c.prompt.no);
    json.at("seed").get_to(c.seed);
  } catch (const nlohmann::json::exception& e) {
    throw DataError("{}: the model's configuration is damaged ({})", where, e.what());
  }
  // The limits of the command line.
  const auto require = [&](bool valid, const char* key) {
    if (!valid)
      throw DataError("{}: the model's {} is damaged: not a value it can have", where, key);
  };
  const auto one_of = [](const std::string& value, const std::vector<std::string>& values) {
    return std::find(values.begin(), values.end(), value) != values.end();
  };
  const auto within = [](auto value, auto least, auto most) {
    return value >= least && value <= most;
  };
  require(one_of(c.precision, {"bf16", "fp32", "fp64"}), "precision");
  require(within(c.lora.rank, 1, kMaxLoraRank), "lora.rank");
  require(within(c.lora.alpha, 0.0, kMaxLoraAlpha), "lora.alpha");
  require(within(c.lora.dropout, 0.0, 0.99), "lora.dropout");
  for (const std::string& target : c.lora.targets)
    require(std::find(kTargetNames.begin(), kTargetNames.end(), target) != kTargetNames.end(),
            "lora.targets");
  require(within(c.lora.lambda_lora, -1e3, 1e3), "inject.lambda_lora");
  require(within(c.lora.lambda_gnn, -1e3, 1e3), "inject.lambda_gnn");
  require(one_of(c.gnn.type, kGnnTypes), "gnn.type");
  require(within(c.gnn.layers, c.gnn.type == "none" ? -1 : 0, 64), "gnn.layers");
  require(within(c.gnn.hidden, 0, kMaxGnnHidden), "gnn.hidden");
  require(within(c.gnn.heads, 1, kMaxGnnHeads), "gnn.heads");
  require(within(c.gnn.hops, 0, 64), "gnn.hops");
  if (c.gnn.hops > 0) c.gnn.mode = "frontier";
  require(one_of(c.gnn.init, {"pca", "random"}), "gnn.init");
  require(one_of(c.projector, {"mlp", "none"}), "projector.type");
  require(within(c.projector_middle, 0, kMaxProjectorMiddle), "projector.middle");
  require(one_of(c.score, {"margin", "yes"}), "score");
  require(within(c.prompt.history, 0, 1 << 16), "prompt.history");
  require(within(c.prompt.max_tokens, 1, 1 << 20), "prompt.max_tokens");
  return c;
}

std::vector<std::int64_t> parse_layers(const std::string& text, std::int64_t layers) {
  std::vector<std::int64_t> result;
  if (text == "none") return result;
  if (text == "middle") return {layers / 2};
  if (text == "all") {
    for (std::int64_t k = 0; k < layers; ++k) result.push_back(k);
    return result;
  }
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    std::int64_t layer = -1;
    const auto [rest, error] = std::from_chars(text.data() + begin, text.data() + end, layer);
    if (error != std::errc() || rest != text.data() + end || layer < 0 || layer >= layers) {
      throw ConfigError(
          "--inject.layers {}: must be middle, all, none or layer numbers from 0 to {}, separated "
          "by commas",
          text, layers - 1);
    }
    result.push_back(layer);
    begin = end + 1;
  }
  std::sort(result.begin(), result.end());
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

Recommender::Recommender(Job& job, const Workspace& workspace,
                         const std::filesystem::path& model_directory, ModelConfig config,
                         EmbeddingTable table, bool bias_columns)
    : workspace_(workspace),
      config_(std::move(config)),
      table_(std::move(table)),
      bias_columns_(bias_columns) {
  Precision precision = Precision::parse(config_.precision);
  precision.device = job.device();
  for (at::Tensor* rows : {&table_.weight_nD, &table_.exp_avg_nD, &table_.exp_avg_sq_nD})
    if (rows->defined()) *rows = rows->to(precision.device);
  const std::int64_t width = table_.weight_nD.size(1);
  std::pair<std::vector<std::int32_t>, std::vector<std::int64_t>> titles;
  job.agree([&] {
    base_ = std::make_unique<HfCheckpoint>(model_directory);
    tokenizer_ = std::make_unique<Tokenizer>(model_directory);
    const LlamaConfig& llama = base_->config();
    if (tokenizer_->vocabulary_size() > llama.vocab_size) {
      throw DataError("{}: the tokenizer has {} ids, the model only {}", model_directory.string(),
                      tokenizer_->vocabulary_size(), llama.vocab_size);
    }
    titles = share_of_titles(*workspace_.dataset, *tokenizer_, workspace_.world());
  });
  // Outside of agree, which needs a local body.
  Communicator& world = workspace_.world();
  const at::Tensor tokens = world.all_gather_varying(view_of(titles.first), Traffic::control).first;
  const at::Tensor lengths =
      world.all_gather_varying(view_of(titles.second), Traffic::control).first;
  job.agree([&] {
    const LlamaConfig& llama = base_->config();
    config_.prompt.max_tokens = std::min(config_.prompt.max_tokens, llama.max_positions);
    prompts_ = std::make_unique<PromptBuilder>(
        *workspace_.dataset, *tokenizer_, config_.prompt,
        TitleTokens(values_of<std::int32_t>(tokens), values_of<std::int64_t>(lengths),
                    workspace_.dataset->items()));
    config_.lora.inject_layers =
        parse_layers(config_.gnn.type == "none" ? "none" : config_.inject_layers, llama.layers);
    config_.gnn.rank = config_.lora.rank;
    config_.gnn = resolved(config_.gnn, width);
    if (config_.gnn.type == "gat" && workspace_.shard->hub_count() > 0) {
      throw ConfigError(
          "--gnn.type gat cannot run on a partition with hubs, since its softmax needs all of a "
          "node's edges in one place; rebuild it: graphlora partition --data {} --parts {} "
          "--partition.hubs 0",
          workspace_.dataset->directory().string(), workspace_.grid->size());
    }
    if (config_.projector_middle < 0 || config_.projector_middle > kMaxProjectorMiddle) {
      throw ConfigError("--projector.middle {}: must be from 0 to {}", config_.projector_middle,
                        kMaxProjectorMiddle);
    }
    const Score score = config_.score == "yes" ? Score::yes : Score::margin;
    const ProcessGrid& grid = *workspace_.grid;
    const ModelSlice slice = ModelSlice::of(llama, grid.tensor_parallel(), grid.tensor_rank());
    llm_ = std::make_unique<GraphLora>(
        llama, base_->load(precision, prompts_->yes_token(), prompts_->no_token(), slice),
        config_.lora, precision, config_.seed, score, slice, &grid.tensor());
    gnn_ = make_gnn(config_.gnn, width, precision.parameter_options(), config_.seed);
  });
  if (config_.projector != "none") {
    if (config_.projector_middle == 0) config_.projector_middle = 10 * width;
    projector_ =
        std::make_unique<Projector>(width, config_.projector_middle, base_->config().hidden_size,
                                    precision.parameter_options(), config_.seed);
  }
  anchors_ = std::make_unique<AnchorStage>(*workspace_.grid, *workspace_.map, *workspace_.shard,
                                           table_, gnn_.get(), projector_.get(), config_.gnn);
  parameters_ = llm_->adapters().parameters();
  if (projector_)
    parameters_.insert(parameters_.end(), projector_->parameters().begin(),
                       projector_->parameters().end());
  if (gnn_)
    parameters_.insert(parameters_.end(), gnn_->parameters().begin(), gnn_->parameters().end());
}

Recommender::~Recommender() = default;

void Recommender::initialize_from_data() {
  if (projector_ != nullptr)
    projector_->scale_input(projector_input_scale(workspace_, table_, bias_columns_));
  if (gnn_ == nullptr) return;
  const auto plan = workspace_.shard->plan(workspace_.shard->cut().full_view());
  gnn_->initialize(*plan, workspace_.world(), table_.weight_nD);
}

}  // namespace graphlora
