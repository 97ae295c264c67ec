// The whole model: LLM side, graph side and their parameters, assembled from one configuration.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/prompt.hpp"
#include "model/anchors.hpp"
#include "model/graphlora.hpp"
#include "train/workspace.hpp"

namespace graphlora {

/// What defines a model; stored in every checkpoint's manifest.
struct ModelConfig {
  std::string precision = "bf16";
  LoraConfig lora;
  std::string inject_layers = "middle";  ///< middle | all | none | comma-separated layer numbers
  GnnConfig gnn;
  std::string projector = "mlp";      ///< mlp | none
  std::int64_t projector_middle = 0;  ///< 0: 10·d_e
  std::string score = "margin";       ///< margin | yes
  PromptConfig prompt;
  std::uint64_t seed = 1;
};
nlohmann::json to_json(const ModelConfig& config);
/// Throws DataError naming `where` and the missing or wrong key, or the one with an impossible
/// value.
ModelConfig model_config_from_json(const nlohmann::json& json, const std::string& where);

/// Layer numbers of `text` ("middle", "all", "none", "3,15") for a model of `layers` layers. Throws
/// ConfigError.
std::vector<std::int64_t> parse_layers(const std::string& text, std::int64_t layers);

class Recommender {
 public:
  /// Loads the LLM from `model_directory` and draws all trainable weights from config.seed. `table`
  /// holds E of the owned nodes; `bias_columns`: its last two columns are (bias, 1) pairs.
  /// Collective; errors are agreed.
  Recommender(Job& job, const Workspace& workspace, const std::filesystem::path& model_directory,
              ModelConfig config, EmbeddingTable table, bool bias_columns);
  ~Recommender();

  /// Sets the data-dependent initial weights: the projector's input scale, the GNN's directions.
  /// Collective; not for a model whose weights are then loaded.
  void initialize_from_data();

  const Workspace& workspace() const { return workspace_; }
  const ModelConfig& config() const { return config_; }
  const HfCheckpoint& base() const { return *base_; }
  const PromptBuilder& prompts() const { return *prompts_; }
  GraphLora& llm() { return *llm_; }
  AnchorStage& anchors() { return *anchors_; }
  EmbeddingTable& table() { return table_; }
  const EmbeddingTable& table() const { return table_; }
  Gnn* gnn() { return gnn_.get(); }
  bool bias_columns() const { return bias_columns_; }
  bool has_projector() const { return projector_ != nullptr; }
  /// Adapters, projector, GNN, in that order: the same list on every rank.
  const std::vector<Parameter>& parameters() const { return parameters_; }

 private:
  const Workspace& workspace_;
  ModelConfig config_;
  std::unique_ptr<HfCheckpoint> base_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<PromptBuilder> prompts_;
  EmbeddingTable table_;
  bool bias_columns_;
  std::unique_ptr<GraphLora> llm_;
  std::unique_ptr<Projector> projector_;
  std::unique_ptr<Gnn> gnn_;
  std::unique_ptr<AnchorStage> anchors_;
  std::vector<Parameter> parameters_;
};

}  // namespace graphlora
