#include "train/checkpoint.hpp"

#include <algorithm>
#include <regex>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/file_hook.hpp"
#include "core/log.hpp"
#include "core/safetensors.hpp"
#include "train/peft_adapter.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

std::string step_name(std::int64_t step) { return fmt::format("step-{:06}", step); }

bool is_step_name(const std::string& name) {
  return name.size() > 5 && name.starts_with("step-") &&
         std::all_of(name.begin() + 5, name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// The step directory a file like LATEST names. A name that leaves OUTPUT is damage or an attack.
fs::path named_step(const fs::path& output, const char* pointer) {
  std::string name = read_file(output / pointer, 256);
  while (!name.empty() && (name.back() == '\n' || name.back() == '\r')) name.pop_back();
  if (!is_step_name(name))
    throw DataError("{}: names no step (expected a line like step-000400)",
                    (output / pointer).string());
  return output / name;
}

/// Directories of steps, the newest first.
std::vector<fs::path> steps_of(const fs::path& output) {
  std::vector<fs::path> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output, error))
    if (is_step_name(entry.path().filename().string()) && entry.is_directory(error))
      steps.push_back(entry.path());
  // Numbers beyond six digits are longer names: order by length first.
  std::sort(steps.begin(), steps.end(), [](const fs::path& a, const fs::path& b) {
    const auto x = a.filename().string(), y = b.filename().string();
    return std::pair(x.size(), x) > std::pair(y.size(), y);
  });
  return steps;
}

/// Where file systems cannot swap names, replacing a step takes two renames (AtomicDirectory): a
/// process that ended between them has left the older step as step-NNNNNN.old-PID.
void complete_replacements(const fs::path& output) {
  static const std::regex replaced("(step-[0-9]{6,})\\.old-[0-9]+");
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output, error))
    names.push_back(entry.path().filename().string());
  for (const std::string& name : names) {
    std::smatch match;
    if (std::regex_match(name, match, replaced) && !path_exists(output / match[1].str()))
      fs::rename(output / name, output / match[1].str(), error);
  }
}

/// Throws DataError unless the files are in the step's directory and none of a checkpoint's lacks.
void check_file_names(const nlohmann::json& files, const fs::path& manifest) {
  for (const char* name : {"adapter/adapter_config.json", "adapter/adapter_model.safetensors",
                           "graphlora.safetensors", "optimizer.safetensors"}) {
    if (!files.contains(name)) throw DataError("{}: lists no {}", manifest.string(), name);
  }
  bool embeddings = false;
  for (const auto& [name, about] : files.items()) {
    const fs::path path(name);
    if (path.empty() || path.is_absolute() || path.lexically_normal() != path ||
        *path.begin() == "..")
      throw DataError("{}: lists a file outside of the step: {}", manifest.string(), name);
    embeddings |= name.starts_with("embeddings-");
  }
  if (!embeddings) throw DataError("{}: lists no embeddings", manifest.string());
}

/// What RunIdentity::course was; older manifests lack it.
nlohmann::json stored_course(const nlohmann::json& manifest) {
  return manifest.value("course", nlohmann::json::object());
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

}  // namespace

bool is_adapter(const std::string& name) { return name.starts_with(kPeftPrefix); }

fs::path step_directory(const fs::path& output, std::int64_t step) {
  return output / step_name(step);
}

void mark_latest(const fs::path& output, std::int64_t step) {
  write_file(output / "LATEST", step_name(step) + "\n");
}

void mark_best(const fs::path& output, std::int64_t step) {
  if (step < 0 || !path_exists(step_directory(output, step))) return;
  try {
    if (named_step(output, "BEST") == step_directory(output, step)) return;
  } catch (const DataError&) {  // NOLINT: not there or damaged, and so replaced
  }
  write_file(output / "BEST", step_name(step) + "\n");
}

void delete_old_steps(const fs::path& output, std::int64_t keep) {
  if (keep <= 0) return;
  std::vector<fs::path> steps = steps_of(output);
  steps.erase(steps.begin(),
              steps.begin() + std::min(keep, static_cast<std::int64_t>(steps.size())));
  for (const char* pointer : {"BEST", "LATEST"}) {
    if (fs::exists(output / pointer)) std::erase(steps, named_step(output, pointer));
  }
  for (const fs::path& step : steps) {
    // Under a name that is no step's: a deletion may be cut short.
    fs::path going = step;
    going += ".tmp-old";
    announce(FileStep::remove, step);
    std::error_code error;
    fs::rename(step, going, error);
    announce(FileStep::remove, going);
    if (!error) fs::remove_all(going, error);
    if (error) log::warn("{}: cannot delete this old step: {}", step.string(), error.message());
  }
}

bool holds_run(const fs::path& output) {
  if (path_exists(output / "LATEST")) return true;
  for (const char* marker : {"manifest.json", "dataset.json", "pretrain.json", "partition.json",
                             "config.json", "adapter_config.json"}) {
    if (path_exists(output / marker)) {
      throw ConfigError(
          "--output {}: holds {}, so it is no run's directory; give that of a run, or a new one",
          output.string(), marker);
    }
  }
  return path_exists(output) && !steps_of(output).empty();
}

ResumePoint find_resume_point(const fs::path& output) {
  ResumePoint point;
  complete_replacements(output);
  std::vector<fs::path> candidates = steps_of(output);
  const auto pass_over = [&](const fs::path& path, const char* cause) {
    point.damaged.push_back({path, cause});
  };
  try {
    if (path_exists(output / "LATEST")) {
      const fs::path latest = named_step(output, "LATEST");
      std::erase(candidates, latest);
      candidates.insert(candidates.begin(), latest);
    } else if (!candidates.empty()) {
      pass_over(output / "LATEST", "is missing, though there are steps");
    }
  } catch (const DataError& error) {
    pass_over(output / "LATEST", error.what());
  }
  for (const fs::path& candidate : candidates) {
    try {
      if (!path_exists(candidate)) throw DataError("{}: is not there", candidate.string());
      const Checkpoint checkpoint(candidate, /*prefer_latest=*/true, /*verify=*/true);
      point.step = candidate;
      return point;
    } catch (const FormatError&) {
      throw;
    } catch (const Error& error) {
      pass_over(candidate, error.what());
    } catch (const std::system_error& error) {
      pass_over(candidate, error.what());
    }
  }
  if (!point.damaged.empty()) {
    throw DataError("{}: --resume finds no whole step; the newest: {}", output.string(),
                    point.damaged.front().cause);
  }
  return point;
}

void tidy_output(const fs::path& output, const std::vector<DamagedStep>& damaged) {
  // As write_file, AtomicDirectory and delete_old_steps name what they have not finished.
  static const std::regex unfinished(
      "(step-[0-9]{6,}|LATEST|BEST|metrics\\.jsonl)\\.(tmp-.+-[0-9]+|tmp-old|old-[0-9]+)");
  std::error_code error;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(output, error))
    if (std::regex_match(entry.path().filename().string(), unfinished))
      left.push_back(entry.path());
  for (const fs::path& path : left) {
    fs::remove_all(path, error);
    if (error)
      log::warn("{}: cannot remove what a run has left: {}", path.string(), error.message());
  }
  for (const auto& [path, cause] : damaged) {
    if (!fs::is_directory(path, error)) continue;
    fs::path aside = path;
    aside += ".damaged";
    for (int k = 2; path_exists(aside); ++k) {
      aside = path;
      aside += fmt::format(".damaged-{}", k);
    }
    fs::rename(path, aside, error);
    if (error) log::warn("{}: cannot rename: {}", path.string(), error.message());
  }
}

std::string manifest_checksum(nlohmann::json manifest) {
  manifest.erase("checksum");
  return sha256(manifest.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
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
    if (format > kCheckpointFormat) {
      throw FormatError(
          "{}: has format {}, written by a newer version of this program ({}); this one reads up "
          "to format {}: update it",
          manifest.string(), format, manifest_.value("version", "unknown"), kCheckpointFormat);
    }
    if (format < kOldestCheckpointFormat) {
      throw FormatError("{}: has format {}, this program reads formats {} to {}", manifest.string(),
                        format, kOldestCheckpointFormat, kCheckpointFormat);
    }
    if (format >= 2 && manifest_.at("checksum") != manifest_checksum(manifest_))
      throw DataError("{}: is damaged: its checksum is not the one it holds", manifest.string());
    state();
    for (const char* part : {"model", "sampler", "dataset", "base_model", "files"}) {
      if (!manifest_.at(part).is_object())
        throw DataError("{}: its {} is not an object", manifest.string(), part);
    }
    for (const char* number : {"seed", "batch_size", "block", "max_train_examples", "groups"})
      manifest_["sampler"].at(number).get<std::int64_t>();
    // Format 1 lacks it.
    if (const auto asked = manifest_["sampler"].find("groups_asked");
        asked != manifest_["sampler"].end())
      asked->get<std::int64_t>();
    manifest_["sampler"].at("cut").get<std::string>();
    manifest_["dataset"].at("fingerprint").get<std::string>();
    manifest_["base_model"].at("fingerprint").get<std::string>();
    manifest_["base_model"].at("path").get<std::string>();
    manifest_.at("templates").get<std::string>();
    manifest_.at("bias_columns").get<bool>();
    if (!stored_course(manifest_).is_object())
      throw DataError("{}: its course is not an object", manifest.string());
    check_file_names(manifest_["files"], manifest);
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
  if (sampler.contains("groups_asked") && cut() != CutKind::none)
    require("groups_asked", "--graph.groups", identity.groups);
  if (const nlohmann::json type = stored_course(manifest_).value("optim.type", nlohmann::json());
      type.is_string() && type != identity.course.value("optim.type", type)) {
    throw ConfigError(
        "--resume: --optim.type was {} in {}, now {}: its moments would be lost; start a new "
        "--output or give the old value",
        type.get<std::string>(), directory_.string(), identity.course["optim.type"].dump());
  }
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

std::vector<std::string> Checkpoint::changed_course(const nlohmann::json& course) const {
  const nlohmann::json was = stored_course(manifest_);
  std::vector<std::string> changes;
  for (const auto& [option, now] : course.items()) {
    const auto stored = was.find(option);
    if (stored != was.end() && *stored != now)
      changes.push_back(fmt::format("--{} was {}, now {}", option, stored->dump(), now.dump()));
  }
  return changes;
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
  try {
    for (const auto& [section, values] : now.items()) {
      if (!values.is_object()) {
        differs(section, stored.at(section), values);
        continue;
      }
      for (const auto& [key, value] : values.items())
        differs(key == "type" && section == "projector" ? section : section + "." + key,
                stored.at(section).at(key), value);
    }
  } catch (const nlohmann::json::exception& e) {
    throw DataError("{}: its model is damaged ({})", (directory_ / "manifest.json").string(),
                    e.what());
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
    copy_into(is_adapter(parameter.name) ? adapter : rest, parameter.name, parameter.value,
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
