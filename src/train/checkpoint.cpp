#include "train/checkpoint.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/safetensors.hpp"
#include "dist/collective_directory.hpp"
#include "dist/gradient_sync.hpp"
#include "train/embedding_store.hpp"
#include "train/peft_adapter.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

bool is_peft(const Parameter& parameter) { return parameter.name.starts_with(kPeftPrefix); }

std::string step_name(std::int64_t step) { return fmt::format("step-{:06}", step); }

/// "0.1" of a scalar tensor: the shortest digits that read back to the same number.
std::string number_text(const at::Tensor& scalar) {
  return scalar.scalar_type() == at::kDouble ? fmt::format("{}", scalar.item<double>())
                                             : fmt::format("{}", scalar.item<float>());
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Whole values of the parameters, and moments where there are any, on every rank of the first
/// replica; nothing on the others. Collective over the tensor groups.
NamedTensors gather_parameters(const ProcessGrid& grid, const std::vector<Parameter>& parameters) {
  NamedTensors whole;
  if (grid.replica() != 0) return whole;
  for (const Parameter& parameter : parameters)
    whole.emplace_back(parameter.name,
                       gather_slices(grid.tensor(), parameter.value, parameter.slice));
  return whole;
}

NamedTensors gather_moments(const ProcessGrid& grid, Optimizer& optimizer) {
  NamedTensors whole;
  if (grid.replica() != 0) return whole;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
    const auto& [name, value, placement, decay, slice] = optimizer.parameters()[i];
    const auto& state = optimizer.states()[i];
    if (!state.exp_avg.defined()) continue;
    whole.emplace_back(name + ".exp_avg", gather_slices(grid.tensor(), state.exp_avg, slice));
    whole.emplace_back(name + ".exp_avg_sq", gather_slices(grid.tensor(), state.exp_avg_sq, slice));
  }
  return whole;
}

/// Those whose names are PEFT's, or the others.
NamedTensors select(const NamedTensors& tensors, bool peft) {
  NamedTensors selected;
  for (const auto& [name, tensor] : tensors)
    if (name.starts_with(kPeftPrefix) == peft) selected.emplace_back(name, tensor);
  return selected;
}

void write_graphlora(const fs::path& directory, Recommender& model, const NamedTensors& tensors) {
  const ModelConfig& config = model.config();
  LoraAdapters& adapters = model.llm().adapters();
  write_safetensors(
      directory / "graphlora.safetensors", select(tensors, /*peft=*/false),
      {{"gnn", config.gnn.type},
       {"gnn_layers", std::to_string(config.gnn.layers)},
       {"inject_layers", fmt::format("{}", fmt::join(config.lora.inject_layers, ","))},
       {"lambda_lora", number_text(adapters.lambda_lora())},
       {"lambda_gnn", number_text(adapters.lambda_gnn())},
       {"score", config.score},
       {"yes_token", std::to_string(model.prompts().yes_token())},
       {"no_token", std::to_string(model.prompts().no_token())}});
}

nlohmann::json file_list(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  nlohmann::json list;
  for (const auto& file : files) {
    list[file.lexically_relative(directory).string()] = {{"bytes", fs::file_size(file)},
                                                         {"sha256", sha256_file(file)}};
  }
  return list;
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
        {"groups", cut.groups()}}},
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

/// The step directory a file like LATEST names. A name that leaves OUTPUT is damage or an attack.
fs::path named_step(const fs::path& output, const char* pointer) {
  std::string name = read_file(output / pointer, 256);
  while (!name.empty() && (name.back() == '\n' || name.back() == '\r')) name.pop_back();
  const bool valid =
      name.size() > 5 && name.starts_with("step-") &&
      std::all_of(name.begin() + 5, name.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!valid)
    throw DataError("{}: names no step (expected a line like step-000400)",
                    (output / pointer).string());
  return output / name;
}

/// Copies a stored tensor, or the slice of it that this rank holds, into `target`.
void copy_into(const SafetensorsReader& file, const std::string& name, at::Tensor target,
               const std::optional<ParameterSlice>& slice) {
  const std::vector<std::int64_t> shape = slice ? slice->whole_shape(target) : target.sizes().vec();
  const auto entry = file.entries().find(name);
  if (entry == file.entries().end())
    throw DataError("{}: has no tensor {}", file.path().string(), name);
  const at::Tensor stored = file.tensor(name, entry->second.dtype, shape);
  if (!at::isFloatingType(stored.scalar_type())) {
    throw ShapeError("{}: tensor {} is not of a floating-point type", file.path().string(), name);
  }
  const at::NoGradGuard guard;
  target.copy_(slice ? slice->of(stored, target) : stored);
  if (!at::isfinite(target).all().item<bool>()) {
    throw DataError("{}: tensor {} holds NaN or infinity", file.path().string(), name);
  }
}

void write_adapter(const fs::path& directory, Recommender& model, const NamedTensors& tensors) {
  make_directories(directory);
  write_safetensors(directory / "adapter_model.safetensors", select(tensors, /*peft=*/true),
                    {{"format", "pt"}});
  const LoraConfig& lora = model.config().lora;
  const nlohmann::ordered_json config = {
      {"peft_type", "LORA"},
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
  write_file(directory / "adapter_config.json", config.dump(2) + "\n");
}

}  // namespace

void save_checkpoint(Job& job, const fs::path& output, Recommender& model, Optimizer& optimizer,
                     const TrainingState& state, const RunIdentity& identity) {
  const Workspace& workspace = model.workspace();
  Communicator& world = workspace.world();
  job.agree([&] { check_replicas_equal(*workspace.grid, model.parameters()); });

  CollectiveDirectory directory(job, step_directory(output, state.step), "manifest.json");
  const fs::path& path = directory.path();
  job.agree([&] {
    write_embeddings(world, path, *workspace.map, workspace.shard->owned(), model.table());
  });
  const NamedTensors parameters = gather_parameters(*workspace.grid, model.parameters());
  const NamedTensors moments = gather_moments(*workspace.grid, optimizer);
  job.agree([&] {
    if (world.rank() != 0) return;
    write_adapter(path / "adapter", model, parameters);
    write_graphlora(path, model, parameters);
    write_safetensors(path / "optimizer.safetensors", moments);
    nlohmann::json manifest = make_manifest(model, state, identity);
    manifest["files"] = file_list(path);
    write_json(path / "manifest.json", manifest);
    directory.commit();
    write_file(output / "LATEST", step_name(state.step) + "\n");
  });
}

fs::path step_directory(const fs::path& output, std::int64_t step) {
  return output / step_name(step);
}

void mark_best(const fs::path& output, std::int64_t step) {
  write_file(output / "BEST", step_name(step) + "\n");
}

void delete_old_steps(const fs::path& output, std::int64_t keep) {
  if (keep <= 0) return;
  std::vector<fs::path> steps;
  for (const auto& entry : fs::directory_iterator(output)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.starts_with("step-") && name.find('.') == std::string::npos)
      steps.push_back(entry.path());
  }
  // Numbers beyond six digits are longer names: order by length first.
  std::sort(steps.begin(), steps.end(), [](const fs::path& a, const fs::path& b) {
    const auto x = a.filename().string(), y = b.filename().string();
    return std::pair(x.size(), x) > std::pair(y.size(), y);
  });
  steps.erase(steps.begin(),
              steps.begin() + std::min(keep, static_cast<std::int64_t>(steps.size())));
  for (const char* pointer : {"BEST", "LATEST"}) {
    if (fs::exists(output / pointer)) std::erase(steps, named_step(output, pointer));
  }
  for (const fs::path& step : steps) {
    std::error_code error;
    fs::remove_all(step, error);
    if (error) log::warn("{}: cannot delete this old step: {}", step.string(), error.message());
  }
}

std::optional<fs::path> latest_step(const fs::path& output) {
  if (!fs::exists(output / "LATEST")) return std::nullopt;
  return named_step(output, "LATEST");
}

Checkpoint::Checkpoint(const fs::path& path, bool prefer_latest, bool verify) : directory_(path) {
  if (!fs::exists(path / "manifest.json")) {
    const char* pointer = !prefer_latest && fs::exists(path / "BEST") ? "BEST" : "LATEST";
    if (!fs::exists(path / pointer)) {
      throw DataError(
          "{}: is neither a step (no manifest.json) nor a training output (no BEST or LATEST)",
          path.string());
    }
    directory_ = named_step(path, pointer);
  }
  const fs::path manifest = directory_ / "manifest.json";
  manifest_ = read_json(manifest);
  try {
    const auto format = manifest_.at("format").get<std::int64_t>();
    if (format != kCheckpointFormat) {
      throw DataError("{}: has format {}, this program reads format {}", manifest.string(), format,
                      kCheckpointFormat);
    }
    state();
    for (const char* part : {"model", "sampler", "dataset", "base_model", "files"}) {
      if (!manifest_.at(part).is_object())
        throw DataError("{}: its {} is not an object", manifest.string(), part);
    }
    for (const char* number : {"seed", "batch_size", "block", "max_train_examples", "groups"})
      manifest_["sampler"].at(number).get<std::int64_t>();
    manifest_["sampler"].at("cut").get<std::string>();
    manifest_["dataset"].at("fingerprint").get<std::string>();
    manifest_["base_model"].at("fingerprint").get<std::string>();
    manifest_["base_model"].at("path").get<std::string>();
    manifest_.at("templates").get<std::string>();
    manifest_.at("bias_columns").get<bool>();
    for (const auto& [name, about] : manifest_["files"].items()) {
      const fs::path file = directory_ / name;
      const auto bytes = about.at("bytes").get<std::uint64_t>();
      std::error_code error;
      const auto size = fs::file_size(file, error);
      if (error)
        throw DataError("{}: {}, though the manifest lists it", file.string(), error.message());
      if (size != bytes) {
        throw DataError("{}: has {} bytes, the manifest says {} (truncated?)", file.string(), size,
                        bytes);
      }
      if (verify && sha256_file(file) != about.at("sha256").get<std::string>()) {
        throw DataError("{}: its checksum is not the manifest's: the file is damaged",
                        file.string());
      }
    }
  } catch (const nlohmann::json::exception& e) {
    throw DataError("{}: is damaged ({})", manifest.string(), e.what());
  }
}

ModelConfig Checkpoint::model_config() const {
  const std::string where = (directory_ / "manifest.json").string();
  if (!manifest_.contains("model")) throw DataError("{}: has no model configuration", where);
  return model_config_from_json(manifest_["model"], where);
}

TrainingState Checkpoint::state() const {
  const auto& json = manifest_.at("state");
  const TrainingState state{manifest_.at("step").get<std::int64_t>(),
                            json.at("best_auc").get<double>(),
                            json.at("best_step").get<std::int64_t>(),
                            json.at("evaluations_since_best").get<std::int64_t>(),
                            json.at("evaluated_step").get<std::int64_t>()};
  if (state.step < 0 || state.best_step < -1 || state.best_step > state.step ||
      state.evaluations_since_best < 0 || state.evaluated_step < -1 ||
      state.evaluated_step > state.step) {
    throw DataError("{}: is damaged (a step or count out of range)",
                    (directory_ / "manifest.json").string());
  }
  return state;
}

bool Checkpoint::bias_columns() const { return manifest_.value("bias_columns", false); }

CutKind Checkpoint::cut() const { return parse_cut(manifest_.at("sampler").value("cut", "none")); }

std::int64_t Checkpoint::groups() const {
  return manifest_.at("sampler").value("groups", std::int64_t{1});
}

AdapterSource Checkpoint::init_adapter() const {
  const auto found = manifest_.find("init_adapter");
  if (found == manifest_.end() || found->is_null()) return {};
  try {
    return {found->at("path").get<std::string>(), found->at("fingerprint").get<std::string>()};
  } catch (const nlohmann::json::exception& e) {
    throw DataError("{}: its init_adapter is damaged ({})", (directory_ / "manifest.json").string(),
                    e.what());
  }
}

void Checkpoint::require_dataset(const Dataset& dataset) const {
  const std::string stored = manifest_.at("dataset").value("fingerprint", "");
  if (stored != dataset.fingerprint()) {
    throw DataError(
        "{}: belongs to another dataset (fingerprint {:.12}, {} has {:.12}); give the one it was "
        "trained on",
        directory_.string(), stored, dataset.directory().string(), dataset.fingerprint());
  }
}

void Checkpoint::require_base(const HfCheckpoint& base) const {
  const std::string stored = manifest_.at("base_model").value("fingerprint", "");
  if (stored != base.fingerprint()) {
    throw DataError("{}: belongs to another base model (fingerprint {:.12}, {} has {:.12})",
                    directory_.string(), stored, base.directory().string(), base.fingerprint());
  }
}

void Checkpoint::require_identity(const RunIdentity& identity) const {
  const auto& sampler = manifest_.at("sampler");
  const auto require = [&](const char* key, const char* option, std::int64_t now) {
    const auto stored = sampler.at(key).get<std::int64_t>();
    if (stored != now) {
      throw ConfigError(
          "--resume: {} was {} in {}, now {}; start a new --output or give the old value", option,
          stored, directory_.string(), now);
    }
  };
  require("seed", "--seed", static_cast<std::int64_t>(identity.seed));
  require("batch_size", "--batch-size", identity.batch_size);
  require("block", "--train.block", identity.block);
  require("max_train_examples", "--max-train-examples", identity.max_train_examples);
  const AdapterSource stored = init_adapter();
  if (!identity.init_adapter.path.empty() &&
      identity.init_adapter.fingerprint != stored.fingerprint) {
    throw ConfigError(
        "--resume: --init-adapter {} is not what the run in {} started from ({}); leave it out or "
        "start a new --output",
        identity.init_adapter.path, directory_.string(),
        stored.path.empty() ? "new adapters" : stored.path);
  }
}

void Checkpoint::require_model(const Recommender& model) const {
  const auto differs = [&](std::string option, const nlohmann::json& stored,
                           const nlohmann::json& now) {
    if (stored == now) return;
    std::replace(option.begin(), option.end(), '_', '-');
    throw ConfigError(
        "--resume: --{} was {} in {}, now {}; give the old value or start a new --output", option,
        stored.dump(), directory_.string(), now.dump());
  };
  const nlohmann::json &stored = manifest_.at("model"), now = to_json(model.config());
  for (const auto& [section, values] : now.items()) {
    if (!values.is_object()) {
      differs(section, stored.at(section), values);
      continue;
    }
    for (const auto& [key, value] : values.items())
      differs(key == "type" && section == "projector" ? section : section + "." + key,
              stored.at(section).at(key), value);
  }
  if (manifest_.at("templates") != model.prompts().source()) {
    throw ConfigError("--resume: --prompt.templates holds other templates than the run in {}",
                      directory_.string());
  }
}

void Checkpoint::load_parameters(Recommender& model) const {
  const SafetensorsReader adapter(directory_ / "adapter" / "adapter_model.safetensors");
  const SafetensorsReader rest(directory_ / "graphlora.safetensors");
  for (const Parameter& parameter : model.parameters()) {
    copy_into(is_peft(parameter) ? adapter : rest, parameter.name, parameter.value,
              parameter.slice);
  }
}

void Checkpoint::load_moments(Optimizer& optimizer) const {
  const SafetensorsReader file(directory_ / "optimizer.safetensors");
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
    auto& state = optimizer.states()[i];
    const Parameter& parameter = optimizer.parameters()[i];
    if (!state.exp_avg.defined()) continue;
    copy_into(file, parameter.name + ".exp_avg", state.exp_avg, parameter.slice);
    copy_into(file, parameter.name + ".exp_avg_sq", state.exp_avg_sq, parameter.slice);
  }
}

}  // namespace graphlora
