// Shapes: V vocabulary, H hidden, I intermediate, Q = heads·head_dim, K = kv_heads·head_dim.
#include "model/hf_checkpoint.hpp"

#include <ATen/Parallel.h>

#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "core/ceil_div.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "model/model_slice.hpp"

namespace graphlora {
namespace {

constexpr std::size_t kMaxFiles = 10'000;
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kFinalNorm = "model.norm.weight";
constexpr const char* kHead = "lm_head.weight";

/// Tensor → file, as the index says. Empty where there is one file and no index.
std::map<std::string, std::string> read_index(const std::filesystem::path& directory) {
  if (path_exists(directory / kHfWeightsFile)) return {};
  const auto path = directory / kHfIndexFile;
  if (!path_exists(path)) {
    throw DataError("{}: has neither {} nor {}; give an HF directory with safetensors weights",
                    directory.string(), kHfWeightsFile, kHfIndexFile);
  }
  const nlohmann::json index = read_json(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw DataError("{}: has no object weight_map", path.string());
  }
  std::map<std::string, std::string> map;
  std::set<std::string> files;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string())
      throw DataError("{}: file of tensor {} is no string", path.string(), tensor);
    const auto name = file.get<std::string>();
    if (name.empty() || name.find('\0') != std::string::npos ||
        std::filesystem::path(name).filename() != name || name == "." || name == "..") {
      throw DataError("{}: file of tensor {} must be a plain name inside the directory",
                      path.string(), tensor);
    }
    map[tensor] = name;
    files.insert(name);
  }
  if (files.empty() || files.size() > kMaxFiles) {
    throw DataError("{}: lists {} files, must list from 1 to {}", path.string(), files.size(),
                    kMaxFiles);
  }
  return map;
}

/// Opens the files that hold the weights: one, or those that the index lists. No tensor may
/// stand in two of them, and each must stand where the index says.
std::vector<SafetensorsReader> open_weights(const std::filesystem::path& directory) {
  const auto map = read_index(directory);
  std::vector<SafetensorsReader> files;
  if (map.empty()) {
    files.emplace_back(directory / kHfWeightsFile);
    return files;
  }
  const std::string index = (directory / kHfIndexFile).string();
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  std::map<std::string, std::string> holders;
  for (const std::string& name : names) {
    if (!path_exists(directory / name)) {
      throw DataError("{}: lists {}, which is not in the directory (incomplete download?)", index,
                      name);
    }
    files.emplace_back(directory / name);
    for (const auto& [tensor, entry] : files.back().entries()) {
      const auto [found, first] = holders.emplace(tensor, name);
      if (!first) {
        throw DataError("{}: tensor {} is in {} and in {} (shards of two models?)", index, tensor,
                        found->second, name);
      }
    }
  }
  for (const auto& [tensor, name] : map) {
    const auto found = holders.find(tensor);
    if (found == holders.end() || found->second != name) {
      throw DataError("{}: lists tensor {} in {}, which does not hold it", index, tensor, name);
    }
  }
  return files;
}

std::string layer_name(std::int64_t layer, const char* name, const char* kind = "weight") {
  return fmt::format("model.layers.{}.{}.{}", layer, name, kind);
}

/// Names and shapes of all tensors a decoder of this shape needs.
std::vector<std::pair<std::string, std::vector<std::int64_t>>> expected_tensors(
    const LlamaConfig& c) {
  const std::int64_t q = c.heads * c.head_dim, k = c.kv_heads * c.head_dim;
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> all{
      {kEmbedding, {c.vocab_size, c.hidden_size}}, {kFinalNorm, {c.hidden_size}}};
  if (!c.tied_embeddings) all.push_back({kHead, {c.vocab_size, c.hidden_size}});
  for (std::int64_t l = 0; l < c.layers; ++l) {
    all.push_back({layer_name(l, "input_layernorm"), {c.hidden_size}});
    all.push_back({layer_name(l, "post_attention_layernorm"), {c.hidden_size}});
    if (c.qkv_bias) {
      all.push_back({layer_name(l, "self_attn.q_proj", "bias"), {q}});
      all.push_back({layer_name(l, "self_attn.k_proj", "bias"), {k}});
      all.push_back({layer_name(l, "self_attn.v_proj", "bias"), {k}});
    }
    if (c.qk_norm) {
      all.push_back({layer_name(l, "self_attn.q_norm"), {c.head_dim}});
      all.push_back({layer_name(l, "self_attn.k_norm"), {c.head_dim}});
    }
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

/// A range of a tensor's rows or columns (`dim` 0 or 1); `size` −1: all of it.
struct Piece {
  std::string name;
  std::int64_t dim = 0, begin = 0, size = -1;
};

/// Weights that config.json does not ask for would be left out of the arithmetic: biases, norms,
/// layers. Llama's old rotary tables are no weights, and a tied head is the embedding again.
void refuse_others(const SafetensorsReader& file, const std::set<std::string>& expected,
                   const LlamaConfig& config) {
  for (const auto& [name, entry] : file.entries()) {
    if (expected.contains(name) || name.ends_with(".rotary_emb.inv_freq") ||
        (config.tied_embeddings && name == kHead)) {
      continue;
    }
    throw DataError(
        "{}: holds tensor {}, which config.json's {} layers of {} do not have (weights of another "
        "model?)",
        file.path().string(), name, config.layers, config.model_type);
  }
}

/// Copies weights out of the maps into tensors of the activation type, on the device.
class WeightLoader {
 public:
  WeightLoader(const std::vector<SafetensorsReader>& files, const Precision& precision)
      : files_(files), type_(precision.activation), device_(precision.device) {}

  std::uint64_t bytes_read() const { return bytes_read_; }

  at::Tensor load(const Piece& piece) { return stack({piece}); }

  /// Several pieces stacked along their rows.
  at::Tensor stack(const std::vector<Piece>& pieces) {
    std::vector<at::Tensor> parts;
    std::int64_t rows = 0;
    for (const Piece& piece : pieces) {
      const SafetensorsReader& file = holder(files_, piece.name);
      parts.push_back(piece.size < 0 ? file.tensor(piece.name)
                                     : file.part(piece.name, piece.dim, piece.begin, piece.size));
      rows += parts.back().size(0);
    }
    std::vector<std::int64_t> shape = parts.front().sizes().vec();
    shape[0] = rows;
    at::Tensor result = at::empty(shape, at::TensorOptions().dtype(type_));
    std::int64_t row = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      at::Tensor target = result.narrow(0, row, parts[i].size(0));
      copy(parts[i], target, pieces[i].name);
      row += parts[i].size(0);
    }
    return result.to(device_);
  }

  /// The token embedding: the map itself where it has the right type and place, since a run reads
  /// few of its rows. The ranks that hold slices of one model share the search for NaN.
  at::Tensor embedding(const std::string& name, const ModelSlice& slice) {
    const SafetensorsReader& file = holder(files_, name);
    if (file.entries().at(name).dtype != type_ || !device_.is_cpu() || !file.aligned(name)) {
      return load({name});
    }
    const at::Tensor mapped = file.tensor(name);
    const std::int64_t rows = mapped.size(0), begin = rows * slice.rank / slice.size;
    at::Tensor none;
    copy(mapped.narrow(0, begin, rows * (slice.rank + 1) / slice.size - begin), none, name);
    return mapped;
  }

  /// A few rows, by number.
  at::Tensor rows(const std::string& name, const at::Tensor& numbers) {
    std::vector<at::Tensor> parts;
    for (std::int64_t i = 0; i < numbers.numel(); ++i) {
      parts.push_back(holder(files_, name).part(name, 0, numbers[i].item<std::int64_t>(), 1));
    }
    const at::Tensor found = at::cat(parts);
    bytes_read_ += found.nbytes();
    const at::Tensor result = found.to(type_);
    if (!at::isfinite(result).all().item<bool>()) {
      throw DataError("{}: rows {} of tensor {} hold NaN or infinity (damaged download?)",
                      holder(files_, name).path().string(),
                      fmt::join(std::span(numbers.const_data_ptr<std::int64_t>(),
                                          static_cast<std::size_t>(numbers.numel())),
                                " and "),
                      name);
    }
    return result.to(device_);
  }

 private:
  /// Copies a part of a mapped tensor to `target`, where that is defined, and looks for NaN, in
  /// blocks that a cache holds; then lets go of the map's pages.
  void copy(const at::Tensor& part, at::Tensor& target, const std::string& name) {
    constexpr std::int64_t kBlockBytes = 1 << 18;
    const std::int64_t rows = part.size(0),
                       row_bytes =
                           part.numel() / rows * static_cast<std::int64_t>(part.element_size()),
                       block = std::max<std::int64_t>(1, kBlockBytes / row_bytes);
    const auto wide = type_ == at::kDouble ? at::kDouble : at::kFloat;
    std::atomic<bool> finite = true;
    at::parallel_for(0, ceil_div(rows, block), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t first = i * block, count = std::min(block, rows - first);
        at::Tensor values = part.narrow(0, first, count);
        if (target.defined()) values = target.narrow(0, first, count).copy_(values);
        // A finite sum has only finite terms; only a suspicious one is worth the exact look.
        if (!std::isfinite(at::sum(values, wide).item<double>()) &&
            !at::isfinite(values).all().item<bool>()) {
          finite = false;
        }
      }
    });
    bytes_read_ += static_cast<std::uint64_t>(rows * row_bytes);
    const SafetensorsReader& file = holder(files_, name);
    file.release(name);
    if (!finite) {
      throw DataError("{}: tensor {} holds NaN or infinity (damaged download?)",
                      file.path().string(), name);
    }
  }

  const std::vector<SafetensorsReader>& files_;
  at::ScalarType type_;
  at::Device device_;
  std::uint64_t bytes_read_ = 0;
};

/// Bytes at four places of a tensor: enough to tell two models of the same shapes apart, and cheap
/// over a network file system.
void append_sample(std::span<const std::byte> bytes, std::string& text) {
  constexpr std::size_t kPlaces = 4, kBytes = 256;
  const auto* data = reinterpret_cast<const char*>(bytes.data());
  const std::size_t size = bytes.size();
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
  // Only what differs from a plain Llama, whose fingerprints stand in checkpoints already.
  if (c.rope_scaling != RopeScaling{} || c.qkv_bias || c.qk_norm || !c.attention_window.empty()) {
    const RopeScaling& r = c.rope_scaling;
    text +=
        fmt::format("rope {} {} {} {} {} bias {} norm {} windows {}\n", static_cast<int>(r.type),
                    r.factor, r.low_freq_factor, r.high_freq_factor, r.original_positions,
                    c.qkv_bias, c.qk_norm, fmt::join(c.attention_window, ","));
  }
  for (const SafetensorsReader& file : files) {
    text += fmt::format("{} {}\n", file.path().filename().string(),
                        std::filesystem::file_size(file.path()));
    for (const auto& [name, entry] : file.entries()) {
      text += fmt::format("{} {} [{}] {}\n", name, c10::toString(entry.dtype),
                          fmt::join(entry.shape, ","), entry.begin);
      append_sample(file.bytes(name), text);
    }
    file.release();
  }
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (std::filesystem::exists(directory / name)) {
      text += sha256_file(directory / name);
      break;
    }
  }
  return sha256(text);
}

}  // namespace

HfCheckpoint::HfCheckpoint(const std::filesystem::path& directory)
    : directory_(directory), config_(read_llama_config(directory / "config.json")) {
  files_ = open_weights(directory);
  std::set<std::string> expected;
  for (const auto& [name, shape] : expected_tensors(config_)) {
    check_tensor(holder(files_, name), name, shape);
    expected.insert(name);
  }
  for (const SafetensorsReader& file : files_) refuse_others(file, expected, config_);
  fingerprint_ = make_fingerprint(directory, config_, files_);
}

at::ScalarType HfCheckpoint::stored_type() const {
  const std::string name = "model.embed_tokens.weight";
  return holder(files_, name).entries().at(name).dtype;
}

BaseWeights HfCheckpoint::load(const Precision& precision, std::int32_t yes_token,
                               std::int32_t no_token) const {
  return load(precision, yes_token, no_token, ModelSlice::whole(config_));
}

BaseWeights HfCheckpoint::load(const Precision& precision, std::int32_t yes_token,
                               std::int32_t no_token, const ModelSlice& slice) const {
  for (const std::int32_t token : {yes_token, no_token}) {
    if (token < 0 || token >= config_.vocab_size) {
      throw DataError(
          "{}: answer token {} is outside the vocabulary of {} (tokenizer.json of another model?)",
          directory_.string(), token, config_.vocab_size);
    }
  }
  const at::NoGradGuard no_grad;
  WeightLoader loader(files_, precision);
  const std::int64_t dim = config_.head_dim, q = slice.first_head * dim, q_size = slice.heads * dim,
                     kv = slice.first_group * dim, kv_size = slice.groups * dim;
  BaseWeights weights;
  weights.embedding_VH = loader.embedding(kEmbedding, slice);
  for (std::int64_t l = 0; l < config_.layers; ++l) {
    const auto qkv = [&](const char* kind) {
      return loader.stack({{layer_name(l, "self_attn.q_proj", kind), 0, q, q_size},
                           {layer_name(l, "self_attn.k_proj", kind), 0, kv, kv_size},
                           {layer_name(l, "self_attn.v_proj", kind), 0, kv, kv_size}});
    };
    const auto columns = [&](const char* part, std::int64_t dimension) -> Piece {
      return {layer_name(l, part), dimension, slice.first_column, slice.columns};
    };
    const auto norm = [&](const char* part) { return loader.load({layer_name(l, part)}); };
    LayerWeights layer{
        .qkv_OH = qkv("weight"),
        .o_HQ = loader.load({layer_name(l, "self_attn.o_proj"), 1, q, q_size}),
        .gate_up_OH = loader.stack({columns("mlp.gate_proj", 0), columns("mlp.up_proj", 0)}),
        .down_HI = loader.load(columns("mlp.down_proj", 1)),
        .input_norm_H = norm("input_layernorm"),
        .post_attention_norm_H = norm("post_attention_layernorm")};
    if (config_.qkv_bias) layer.qkv_bias_O = qkv("bias");
    if (config_.qk_norm) {
      layer.q_norm_D = norm("self_attn.q_norm");
      layer.k_norm_D = norm("self_attn.k_norm");
    }
    weights.layers.push_back(std::move(layer));
  }
  weights.final_norm_H = loader.load({kFinalNorm});
  weights.head_2H = loader.rows(
      config_.tied_embeddings ? kEmbedding : kHead,
      at::tensor({static_cast<std::int64_t>(yes_token), static_cast<std::int64_t>(no_token)}));
  weights.bytes_read = loader.bytes_read();
  return weights;
}

}  // namespace graphlora
