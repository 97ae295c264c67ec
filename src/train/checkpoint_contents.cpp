#include "train/checkpoint_contents.hpp"

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "dist/gradient_sync.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// "0.1" of a scalar tensor: the shortest digits that read back to the same number.
std::string number_text(const at::Tensor& scalar) {
  return scalar.scalar_type() == at::kDouble ? fmt::format("{}", scalar.item<double>())
                                             : fmt::format("{}", scalar.item<float>());
}

/// The whole of which this rank holds `part`, as a copy on the CPU of rank 0. Collective over the
/// tensor groups.
void add_copy(NamedTensors& tensors, const ProcessGrid& grid, std::string name,
              const at::Tensor& part, const std::optional<ParameterSlice>& slice) {
  const at::Tensor whole = gather_slices(grid.tensor(), part.detach(), slice);
  if (grid.rank() == 0)
    tensors.emplace_back(std::move(name), whole.to(at::kCPU, whole.scalar_type(), false, true));
}

/// Values of the parameters, for rank 0: only the first replica's ranks take part.
NamedTensors copy_parameters(const ProcessGrid& grid, const std::vector<Parameter>& parameters) {
  NamedTensors copies;
  if (grid.replica() != 0) return copies;
  for (const Parameter& parameter : parameters)
    add_copy(copies, grid, parameter.name, parameter.value, parameter.slice);
  return copies;
}

/// Their moments, where there are any.
NamedTensors copy_moments(const ProcessGrid& grid, Optimizer& optimizer) {
  NamedTensors copies;
  if (grid.replica() != 0) return copies;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
    const Parameter& parameter = optimizer.parameters()[i];
    const auto& state = optimizer.states()[i];
    if (!state.exp_avg.defined()) continue;
    add_copy(copies, grid, parameter.name + ".exp_avg", state.exp_avg, parameter.slice);
    add_copy(copies, grid, parameter.name + ".exp_avg_sq", state.exp_avg_sq, parameter.slice);
  }
  return copies;
}

/// Those of the adapters, or the others.
NamedTensors select(const NamedTensors& tensors, bool adapters) {
  NamedTensors selected;
  for (const auto& [name, tensor] : tensors)
    if (is_adapter(name) == adapters) selected.emplace_back(name, tensor);
  return selected;
}

std::map<std::string, std::string> make_metadata(Recommender& model) {
  const ModelConfig& config = model.config();
  LoraAdapters& adapters = model.llm().adapters();
  return {{"gnn", config.gnn.type},
          {"gnn_layers", std::to_string(config.gnn.layers)},
          {"inject_layers", fmt::format("{}", fmt::join(config.lora.inject_layers, ","))},
          {"lambda_lora", number_text(adapters.lambda_lora())},
          {"lambda_gnn", number_text(adapters.lambda_gnn())},
          {"score", config.score},
          {"yes_token", std::to_string(model.prompts().yes_token())},
          {"no_token", std::to_string(model.prompts().no_token())}};
}

nlohmann::json make_manifest(Recommender& model, const TrainingState& state,
                             const RunIdentity& identity) {
  const Workspace& workspace = model.workspace();
  const Dataset& dataset = *workspace.dataset;
  const CutRule& cut = workspace.shard->cut();
  nlohmann::json init_adapter;
  if (!identity.init_adapter.path.empty()) {
    init_adapter = {{"path", identity.init_adapter.path},
                    {"fingerprint", identity.init_adapter.fingerprint}};
  }
  return {
      {"init_adapter", init_adapter},
      {"course", identity.course},
      {"format", kCheckpointFormat},
      {"version", GRAPHLORA_VERSION},
      {"step", state.step},
      {"model", to_json(model.config())},
      {"templates", model.prompts().source()},
      {"yes_token", model.prompts().yes_token()},
      {"no_token", model.prompts().no_token()},
      {"users", dataset.users()},
      {"items", dataset.items()},
      {"embedding_width", model.table().weight_nD.size(1)},
      {"bias_columns", model.bias_columns()},
      {"grid",
       {{"data", workspace.grid->replicas()}, {"tensor", workspace.grid->tensor_parallel()}}},
      {"sampler",
       {{"seed", identity.seed},
        {"batch_size", identity.batch_size},
        {"block", identity.block},
        {"max_train_examples", identity.max_train_examples},
        {"cut", to_string(cut.kind())},
        {"groups", cut.groups()},
        {"groups_asked", identity.groups}}},
      {"state",
       {{"best_auc", state.best_auc},
        {"best_step", state.best_step},
        {"evaluations_since_best", state.evaluations_since_best},
        {"evaluated_step", state.evaluated_step}}},
      {"base_model",
       {{"path", model.base().directory().string()}, {"fingerprint", model.base().fingerprint()}}},
      {"dataset",
       {{"path", dataset.directory().string()}, {"fingerprint", dataset.fingerprint()}}}};
}

nlohmann::ordered_json make_adapter_config(Recommender& model) {
  const LoraConfig& lora = model.config().lora;
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", model.base().directory().string()},
          {"r", lora.rank},
          {"lora_alpha", lora.alpha},
          {"lora_dropout", lora.dropout},
          {"target_modules", lora.targets},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"use_rslora", false},
          {"use_dora", false},
          {"modules_to_save", nullptr}};
}

fs::path share_file(const fs::path& directory, int rank) {
  return directory / fmt::format("share-{:05d}.json", rank);
}

}  // namespace

CheckpointContents::CheckpointContents(Job& job, Recommender& model, Optimizer& optimizer,
                                       const TrainingState& state, const RunIdentity& identity)
    : step_(state.step), best_step_(state.best_step) {
  const Workspace& workspace = model.workspace();
  const ProcessGrid& grid = *workspace.grid;
  rank_ = grid.rank();
  ranks_ = grid.size();
  job.agree([&] { check_replicas_equal(*workspace.grid, model.parameters()); });
  // Its exchanges can't be agreed on: a rank that fails between them is alone.
  embeddings_ =
      copy_embeddings(workspace.world(), *workspace.map, workspace.shard->owned(), model.table());
  parameters_ = copy_parameters(grid, model.parameters());
  moments_ = copy_moments(grid, optimizer);
  if (rank_ != 0) return;
  manifest_ = make_manifest(model, state, identity);
  adapter_config_ = make_adapter_config(model);
  metadata_ = make_metadata(model);
}

void CheckpointContents::write(const fs::path& directory) const {
  std::vector<std::string> names;
  for (const EmbeddingFile& file : embeddings_) {
    write_safetensors(directory / file.name, file.tensors);
    names.push_back(file.name);
  }
  if (rank_ == 0) {
    make_directories(directory / "adapter");
    write_safetensors(directory / "adapter/adapter_model.safetensors",
                      select(parameters_, /*adapters=*/true), {{"format", "pt"}});
    write_file(directory / "adapter/adapter_config.json", adapter_config_.dump(2) + "\n");
    write_safetensors(directory / "graphlora.safetensors", select(parameters_, /*adapters=*/false),
                      metadata_);
    write_safetensors(directory / "optimizer.safetensors", moments_);
    names.insert(names.end(), {"adapter/adapter_model.safetensors", "adapter/adapter_config.json",
                               "graphlora.safetensors", "optimizer.safetensors"});
  }
  nlohmann::json share = nlohmann::json::object();
  for (const std::string& name : names) {
    share[name] = {{"bytes", fs::file_size(directory / name)},
                   {"sha256", sha256_file(directory / name)}};
  }
  write_json(share_file(directory, rank_), share);
}

void CheckpointContents::write_manifest(const fs::path& directory) const {
  nlohmann::json manifest = manifest_, files = nlohmann::json::object();
  for (int rank = 0; rank < ranks_; ++rank) {
    const nlohmann::json share = read_json(share_file(directory, rank));
    for (const auto& [name, about] : share.items()) {
      const auto bytes = fs::file_size(directory / name);
      if (bytes != about.at("bytes")) {
        throw DataError("{}: has {} bytes here, rank {} wrote {}: is this file system shared?",
                        (directory / name).string(), bytes, rank, about.at("bytes").dump());
      }
      files[name] = about;
    }
    fs::remove(share_file(directory, rank));
  }
  manifest["files"] = std::move(files);
  manifest["checksum"] = manifest_checksum(manifest);
  write_json(directory / "manifest.json", manifest);
}

}  // namespace graphlora
