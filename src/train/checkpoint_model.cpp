#include "train/checkpoint_model.hpp"

#include "train/embedding_store.hpp"

namespace graphlora {

CheckpointModel::CheckpointModel(Job& job, const std::filesystem::path& data,
                                 const std::filesystem::path& checkpoint,
                                 const std::filesystem::path& base_model,
                                 const std::string& precision, int tensor_parallel) {
  ModelConfig config;
  PartitionConfig partition;
  std::string base = base_model.string();
  job.agree([&] {
    checkpoint_ = std::make_unique<Checkpoint>(checkpoint, /*prefer_latest=*/false,
                                               /*verify=*/job.world()->rank() == 0);
    config = checkpoint_->model_config();
    config.prompt.template_text = checkpoint_->manifest().value("templates", "");
    if (!precision.empty()) config.precision = precision;
    if (base.empty()) base = checkpoint_->manifest().at("base_model").value("path", "");
    partition.cut = to_string(checkpoint_->cut());
    partition.groups = checkpoint_->groups();
  });
  workspace_ = std::make_unique<Workspace>(job, data, partition, Reuse::any, tensor_parallel);
  EmbeddingTable table;
  job.agree([&] {
    checkpoint_->require_dataset(*workspace_->dataset);
    table =
        read_embeddings(checkpoint_->directory(), workspace_->shard->owned(),
                        workspace_->dataset->nodes(), Precision::parse(config.precision).parameter);
  });
  model_ = std::make_unique<Recommender>(job, *workspace_, base, config, std::move(table),
                                         checkpoint_->bias_columns());
  job.agree([&] {
    checkpoint_->require_base(model_->base());
    checkpoint_->load_parameters(*model_);
  });
}

}  // namespace graphlora
