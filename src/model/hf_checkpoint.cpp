// Shapes: V vocabulary, H hidden, I intermediate, Q = heads·head_dim, K = kv_heads·head_dim.
#include "model/hf_checkpoint.hpp"

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::size_t kMaxFiles = 10'000;

/// Names of the files that hold the weights: one, or those that the index lists.
std::vector<std::filesystem::path> weight_files(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / kSingleFile)) return {directory / kSingleFile};
  const auto index_path = directory / kIndexFile;
  if (!std::filesystem::exists(index_path)) {
    throw DataError("{}: has neither {} nor {}; give an HF directory with safetensors weights",
                    directory.string(), kSingleFile, kIndexFile);
  }
  const nlohmann::json index = read_json(index_path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw DataError("{}: has no object weight_map", index_path.string());
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string())
      throw DataError("{}: file of tensor {} is no string", index_path.string(), tensor);
    const auto name = file.get<std::string>();
    if (name.empty() || name.find('\0') != std::string::npos ||
        std::filesystem::path(name).filename() != name || name == "..") {
      throw DataError("{}: file of tensor {} must be a plain name inside the directory",
                      index_path.string(), tensor);
    }
    names.insert(name);
  }
  if (names.empty() || names.size() > kMaxFiles) {
    throw DataError("{}: lists {} files, must list from 1 to {}", index_path.string(), names.size(),
                    kMaxFiles);
  }
  std::vector<std::filesystem::path> files;
  for (const std::string& name : names) files.push_back(directory / name);
  return files;
}

std::string layer_name(std::int64_t layer, const char* name) {
  return fmt::format("model.layers.{}.{}.weight", layer, name);
}

/// Names and shapes of all tensors a decoder of this shape needs.
std::vector<std::pair<std::string, std::vector<std::int64_t>>> expected_tensors(
    const LlamaConfig& c) {
  const std::int64_t q = c.heads * c.head_dim, k = c.kv_heads * c.head_dim;
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> all{
      {"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}},
      {"model.norm.weight", {c.hidden_size}}};
  if (!c.tied_embeddings) all.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}});
  for (std::int64_t l = 0; l < c.layers; ++l) {
    all.push_back({layer_name(l, "input_layernorm"), {c.hidden_size}});
    all.push_back({layer_name(l, "post_attention_layernorm"), {c.hidden_size}});
    all.push_back({layer_name(l, "self_attn.q_proj"), {q, c.hidden_size}});
    all.push_back({layer_name(l, "self_attn.k_proj"), {k, c.hidden_size}});
    all.push_back({layer_name(l, "self_attn.v_proj"), {k, c.hidden_size}});
    all.push_back({layer_name(l, "self_attn.o_proj"), {c.hidden_size, q}});
    all.push_back({layer_name(l, "mlp.gate_proj"), {c.intermediate_size, c.hidden_size}});
    all.push_back({layer_name(l, "mlp.up_proj"), {c.intermediate_size, c.hidden_size}});
    all.push_back({layer_name(l, "mlp.down_proj"), {c.hidden_size, c.intermediate_size}});
  }
  return all;
}

/// The file that holds a tensor. Throws DataError if none does.
const SafetensorsReader& holder(const std::vector<SafetensorsReader>& files,
                                const std::string& name) {
  for (const SafetensorsReader& file : files) {
    if (file.contains(name)) return file;
  }
  throw DataError("{}: has no tensor {} (damaged, or config.json is another model's)",
                  files.front().path().string(), name);
}

void check_tensor(const SafetensorsReader& file, const std::string& name,
                  const std::vector<std::int64_t>& shape) {
  const auto& entry = file.entries().at(name);
  if (!at::isFloatingType(entry.dtype)) {
    throw ShapeError(
        "{}: tensor {} is no floating-point tensor (quantized weights are not supported)",
        file.path().string(), name);
  }
  if (entry.shape != shape) {
    throw ShapeError("{}: tensor {} has shape [{}], but config.json asks for [{}]",
                     file.path().string(), name, fmt::join(entry.shape, ","),
                     fmt::join(shape, ","));
  }
}

/// Copies weights out of the maps into tensors of the activation type.
class WeightLoader {
 public:
  WeightLoader(const std::vector<SafetensorsReader>& files, at::ScalarType type)
      : files_(files), type_(type) {}

  /// One matrix or vector.
  at::Tensor load(const std::string& name) const { return stack({name}); }

  /// Several matrices stacked along their rows.
  at::Tensor stack(const std::vector<std::string>& names) const {
    std::vector<at::Tensor> parts;
    std::int64_t rows = 0;
    for (const std::string& name : names) {
      parts.push_back(holder(files_, name).tensor(name));
      rows += parts.back().size(0);
    }
    std::vector<std::int64_t> shape = parts.front().sizes().vec();
    shape[0] = rows;
    at::Tensor result = at::empty(shape, at::TensorOptions().dtype(type_));
    std::int64_t row = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      at::Tensor target = result.narrow(0, row, parts[i].size(0));
      target.copy_(parts[i]);
      require_finite(target, names[i]);
      row += parts[i].size(0);
    }
    return result;
  }

  /// The token embedding: the map itself where it has the right type, since a run reads few of its
  /// rows.
  at::Tensor embedding(const std::string& name) const {
    const at::Tensor mapped = holder(files_, name).tensor(name);
    if (mapped.scalar_type() != type_) return load(name);
    require_finite(mapped, name);
    return mapped;
  }

 private:
  void require_finite(const at::Tensor& tensor, const std::string& name) const {
    // A finite sum has only finite terms; only a suspicious one is worth the exact look.
    const auto wide = type_ == at::kDouble ? at::kDouble : at::kFloat;
    if (std::isfinite(at::sum(tensor, wide).item<double>()) ||
        at::isfinite(tensor).all().item<bool>())
      return;
    throw DataError("{}: tensor {} holds NaN or infinity (damaged download?)",
                    holder(files_, name).path().string(), name);
  }

  const std::vector<SafetensorsReader>& files_;
  at::ScalarType type_;
};

/// Bytes at four places of a tensor: enough to tell two models of the same shapes apart, and cheap
/// over a network file system.
void append_sample(const at::Tensor& tensor, std::string& text) {
  constexpr std::size_t kPlaces = 4, kBytes = 256;
  const auto* data = static_cast<const char*>(tensor.const_data_ptr());
  const std::size_t size = tensor.nbytes();
  for (std::size_t place = 0; place < kPlaces; ++place) {
    const std::size_t begin = size / kPlaces * place;
    text.append(data + begin, std::min(kBytes, size - begin));
  }
}

std::string make_fingerprint(const std::filesystem::path& directory, const LlamaConfig& c,
                             const std::vector<SafetensorsReader>& files) {
  std::string text =
      fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}\n", c.model_type, c.vocab_size,
                  c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads, c.head_dim,
                  c.max_positions, c.rms_norm_eps, c.rope_theta, c.tied_embeddings);
  for (const SafetensorsReader& file : files) {
    text += fmt::format("{} {}\n", file.path().filename().string(),
                        std::filesystem::file_size(file.path()));
    for (const auto& [name, entry] : file.entries()) {
      text += fmt::format("{} {} [{}] {}\n", name, c10::toString(entry.dtype),
                          fmt::join(entry.shape, ","), entry.begin);
      append_sample(file.tensor(name), text);
    }
  }
  if (std::filesystem::exists(directory / "tokenizer.json"))
    text += sha256_file(directory / "tokenizer.json");
  return sha256(text);
}

}  // namespace

HfCheckpoint::HfCheckpoint(const std::filesystem::path& directory)
    : directory_(directory), config_(read_llama_config(directory / "config.json")) {
  for (const auto& path : weight_files(directory)) files_.emplace_back(path);
  for (const auto& [name, shape] : expected_tensors(config_))
    check_tensor(holder(files_, name), name, shape);
  fingerprint_ = make_fingerprint(directory, config_, files_);
}

BaseWeights HfCheckpoint::load(const Precision& precision, std::int32_t yes_token,
                               std::int32_t no_token) const {
  for (const std::int32_t token : {yes_token, no_token}) {
    if (token < 0 || token >= config_.vocab_size) {
      throw DataError(
          "{}: answer token {} is outside the vocabulary of {} (tokenizer.json of another model?)",
          directory_.string(), token, config_.vocab_size);
    }
  }
  const at::NoGradGuard no_grad;
  const WeightLoader loader(files_, precision.activation);
  BaseWeights weights;
  weights.embedding_VH = loader.embedding("model.embed_tokens.weight");
  for (std::int64_t l = 0; l < config_.layers; ++l) {
    const auto name = [l](const char* part) { return layer_name(l, part); };
    weights.layers.push_back(
        {.qkv_OH = loader.stack(
             {name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj")}),
         .o_HQ = loader.load(name("self_attn.o_proj")),
         .gate_up_OH = loader.stack({name("mlp.gate_proj"), name("mlp.up_proj")}),
         .down_HI = loader.load(name("mlp.down_proj")),
         .input_norm_H = loader.load(name("input_layernorm")),
         .post_attention_norm_H = loader.load(name("post_attention_layernorm"))});
  }
  weights.final_norm_H = loader.load("model.norm.weight");
  const at::Tensor rows =
      at::tensor({static_cast<std::int64_t>(yes_token), static_cast<std::int64_t>(no_token)});
  const std::string head = "lm_head.weight";
  weights.head_2H = config_.tied_embeddings ? weights.embedding_VH.index_select(0, rows)
                                            : holder(files_, head)
                                                  .tensor(head)
                                                  .index_select(0, rows)
                                                  .to(precision.activation)
                                                  .contiguous();
  if (!at::isfinite(weights.head_2H).all().item<bool>()) {
    throw DataError("{}: rows {} and {} of the LM head hold NaN or infinity", directory_.string(),
                    yes_token, no_token);
  }
  return weights;
}

}  // namespace graphlora
