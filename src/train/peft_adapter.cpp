// Shapes: I inputs, O outputs, r rank.
#include "train/peft_adapter.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "core/file.hpp"
#include "model/lora.hpp"

namespace graphlora {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight";

/// Settings that change what A and B mean or what else belongs to the adapter: only these values
/// are plain LoRA. Empty lists and objects count as null.
const std::vector<std::pair<const char*, nlohmann::json>>& plain_settings() {
  static const std::vector<std::pair<const char*, nlohmann::json>> settings{
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"lora_bias", false},
      {"use_dora", false},
      {"use_qalora", false},
      {"use_bdlora", nullptr},
      {"modules_to_save", nullptr},
      {"exclude_modules", nullptr},
      {"layers_to_transform", nullptr},
      {"layers_pattern", nullptr},
      {"layer_replication", nullptr},
      {"rank_pattern", nullptr},
      {"alpha_pattern", nullptr},
      {"target_parameters", nullptr},
      {"trainable_token_indices", nullptr},
      {"alora_invocation_tokens", nullptr},
      {"velora_config", nullptr},
      {"monteclora_config", nullptr},
      {"kasa_config", nullptr},
      {"arrow_config", nullptr},
      {"megatron_config", nullptr}};
  return settings;
}

/// Ways to start an adapter that also change the base model's weights.
bool changes_the_base(const std::string& start) {
  return start.starts_with("pissa") || start == "olora" || start == "loftq" || start == "corda" ||
         start == "lora_ga";
}

std::vector<std::string> read_targets(const nlohmann::json& value, const std::string& where) {
  const auto known = [](const std::string& name) {
    return std::find(kTargetNames.begin(), kTargetNames.end(), name) != kTargetNames.end();
  };
  if (value == "all-linear") return {kTargetNames.begin(), kTargetNames.end()};
  if (value.is_string() && !known(value.get<std::string>())) {
    throw DataError("{}: target_modules is the pattern {}; list the names of linears ({})", where,
                    value.dump(), fmt::join(kTargetNames, ", "));
  }
  std::set<std::string> named;
  for (const nlohmann::json& name : value.is_string() ? nlohmann::json::array({value}) : value) {
    if (!name.is_string() || !known(name.get<std::string>())) {
      throw DataError("{}: target_modules names {}; only {} can have adapters", where, name.dump(),
                      fmt::join(kTargetNames, ", "));
    }
    named.insert(name.get<std::string>());
  }
  if (named.empty()) throw DataError("{}: target_modules names no linear", where);
  std::vector<std::string> targets;
  for (const char* name : kTargetNames)
    if (named.contains(name)) targets.emplace_back(name);
  return targets;
}

/// HF's name of the linear that a tensor belongs to; empty if it is not A or B of one of `targets`.
std::string linear_of(const std::string& tensor, const std::vector<std::string>& targets) {
  if (!tensor.starts_with(kPeftPrefix) || !(tensor.ends_with(kA) || tensor.ends_with(kB)))
    return {};
  const std::string linear =
      tensor.substr(kPeftPrefix.size(), tensor.size() - kPeftPrefix.size() - kA.size());
  const auto dot = linear.rfind('.');
  if (dot == std::string::npos ||
      std::find(targets.begin(), targets.end(), linear.substr(dot + 1)) == targets.end())
    return {};
  return linear;
}

}  // namespace

PeftAdapter::PeftAdapter(const fs::path& directory) : directory_(directory) {
  const fs::path config_file = directory / kConfigFile, weights_file = directory / kWeightsFile;
  if (!path_exists(config_file)) {
    throw DataError("{}: has no {}; give a directory that PEFT has saved a LoRA adapter to",
                    directory.string(), kConfigFile);
  }
  const std::string where = config_file.string();
  const nlohmann::json config = read_json(config_file);
  if (!config.is_object()) throw DataError("{}: is not an object", where);
  try {
    if (const auto type = config.value("peft_type", nlohmann::json()); type != "LORA")
      throw DataError("{}: peft_type is {}; only LORA is supported", where, type.dump());
    rank_ = config.at("r").get<std::int64_t>();
    alpha_ = config.at("lora_alpha").get<double>();
    if (rank_ < 1 || rank_ > kMaxLoraRank || !(alpha_ >= 0 && alpha_ <= kMaxLoraAlpha)) {
      throw DataError("{}: r must be from 1 to {}, lora_alpha from 0 to {}", where, kMaxLoraRank,
                      kMaxLoraAlpha);
    }
    if (config.value("use_rslora", nlohmann::json()) == true) {
      throw DataError(
          "{}: use_rslora is not supported; set it to false and lora_alpha to {} (lora_alpha·√r), "
          "which is the same adapter",
          where, alpha_ * std::sqrt(static_cast<double>(rank_)));
    }
    for (const auto& [key, plain] : plain_settings()) {
      const auto found = config.find(key);
      if (found == config.end() || found->is_null() || *found == plain) continue;
      if (plain.is_null() && (found->empty() || *found == false)) continue;
      throw DataError("{}: {} is {}; such adapters are not supported", where, key, found->dump());
    }
    if (const auto start = config.value("init_lora_weights", nlohmann::json());
        start.is_string() && changes_the_base(start.get<std::string>())) {
      throw DataError(
          "{}: init_lora_weights is {}, which changed the base model too; convert the adapter to "
          "plain LoRA first (PEFT's save_pretrained with path_initial_model_for_weight_conversion)",
          where, start.dump());
    }
    targets_ = read_targets(config.at("target_modules"), where);
  } catch (const nlohmann::json::exception& e) {
    throw DataError("{}: is damaged ({})", where, e.what());
  }

  if (!path_exists(weights_file)) {
    throw DataError("{}: has no {} (PEFT writes it with safe_serialization)", directory.string(),
                    kWeightsFile);
  }
  weights_.emplace(weights_file);
  for (const auto& [name, entry] : weights_->entries()) {
    const std::string linear = linear_of(name, targets_);
    if (linear.empty()) {
      throw DataError("{}: tensor {} is not A or B of a linear that {} names as a target",
                      weights_file.string(), name, kConfigFile);
    }
    const bool is_a = name.ends_with(kA);
    if (!at::isFloatingType(entry.dtype) || c10::elementSize(entry.dtype) < 2) {
      throw ShapeError("{}: tensor {} must be of type BF16, F16, F32 or F64", weights_file.string(),
                       name);
    }
    if (entry.shape.size() != 2 || entry.shape[is_a ? 0 : 1] != rank_) {
      throw ShapeError("{}: tensor {} has shape [{}], but {} says rank {}", weights_file.string(),
                       name, fmt::join(entry.shape, ","), kConfigFile, rank_);
    }
    const std::string other = fmt::format("{}{}{}", kPeftPrefix, linear, is_a ? kB : kA);
    if (!weights_->contains(other))
      throw DataError("{}: has {} but no {}", weights_file.string(), name, other);
    linears_.insert(linear);
  }
  if (linears_.empty()) throw DataError("{}: holds no tensors", weights_file.string());
}

std::string PeftAdapter::fingerprint() const { return sha256_file(weights_->path()); }

at::Tensor PeftAdapter::a_rI(const std::string& linear) const {
  return weights_->tensor(fmt::format("{}{}{}", kPeftPrefix, linear, kA));
}

at::Tensor PeftAdapter::b_Or(const std::string& linear) const {
  return weights_->tensor(fmt::format("{}{}{}", kPeftPrefix, linear, kB));
}

void PeftAdapter::load(const std::vector<Parameter>& parameters) const {
  const at::NoGradGuard no_grad;
  std::size_t loaded = 0;
  for (const Parameter& parameter : parameters) {
    if (!parameter.name.starts_with(kPeftPrefix)) continue;
    if (!weights_->contains(parameter.name)) {
      throw DataError(
          "{}: has no tensor {}, which the model asks for (an adapter of another base?)",
          weights_->path().string(), parameter.name);
    }
    const auto& slice = parameter.slice;
    const std::vector<std::int64_t> shape =
        slice ? slice->whole_shape(parameter.value) : parameter.value.sizes().vec();
    const at::Tensor stored = weights_->tensor(parameter.name);
    if (stored.sizes() != shape) {
      throw ShapeError(
          "{}: tensor {} has shape [{}], the model asks for [{}] (an adapter of "
          "another base?)",
          weights_->path().string(), parameter.name, fmt::join(stored.sizes(), ","),
          fmt::join(shape, ","));
    }
    at::Tensor(parameter.value).copy_(slice ? slice->of(stored, parameter.value) : stored);
    if (!at::isfinite(parameter.value).all().item<bool>()) {
      throw DataError("{}: tensor {} holds NaN, infinity or a number too large for {}",
                      weights_->path().string(), parameter.name,
                      at::toString(parameter.value.scalar_type()));
    }
    ++loaded;
  }
  if (loaded == weights_->entries().size()) return;
  for (const auto& [name, entry] : weights_->entries()) {
    const bool known = std::any_of(parameters.begin(), parameters.end(),
                                   [&name = name](const Parameter& p) { return p.name == name; });
    if (!known) {
      throw DataError("{}: tensor {} has no place in the model (an adapter of another base?)",
                      weights_->path().string(), name);
    }
  }
}

}  // namespace graphlora
