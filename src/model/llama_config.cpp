#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "model/hf_checkpoint.hpp"

namespace graphlora {
namespace {

using nlohmann::json;

/// Typed access to one config.json; every error names the file and the key.
class ConfigReader {
 public:
  ConfigReader(const json& object, std::string file) : object_(object), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  bool is_null(const char* key) const { return object_.contains(key) && object_[key].is_null(); }
  const json& at(const char* key) const { return object_.at(key); }

  std::int64_t integer(const char* key, std::int64_t most, std::int64_t least = 1) const {
    if (!has(key)) throw DataError("{}: has no {}", file_, key);
    const json& value = object_[key];
    if (!value.is_number_integer())
      throw DataError("{}: {} is {}, must be an integer", file_, key, shown(value));
    const bool fits = value.is_number_unsigned()
                          ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most)
                          : value.get<std::int64_t>() <= most;
    if (!fits || value.get<std::int64_t>() < least) {
      throw DataError("{}: {} is {}, must be from {} to {}", file_, key, shown(value), least, most);
    }
    return value.get<std::int64_t>();
  }

  /// A number in (0, most], or [least, most] for a least above 0.
  double number(const char* key, double least, double most) const {
    if (!has(key)) throw DataError("{}: has no {}", file_, key);
    const json& value = object_[key];
    if (!value.is_number() ||
        !(value.get<double>() > 0 && value.get<double>() >= least && value.get<double>() <= most)) {
      throw DataError("{}: {} is {}, must be a number {} {}, at most {}", file_, key, shown(value),
                      least > 0 ? "from" : "above", least, most);
    }
    return value.get<double>();
  }

  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!object_[key].is_boolean()) throw DataError("{}: {} must be true or false", file_, key);
    return object_[key].get<bool>();
  }

  std::string text(const char* key, const std::string& otherwise) const {
    if (!has(key)) return otherwise;
    if (!object_[key].is_string()) throw DataError("{}: {} must be a string", file_, key);
    return object_[key].get<std::string>();
  }

  /// A nested object, if there is one.
  std::optional<ConfigReader> nested(const char* key) const {
    if (!has(key)) return std::nullopt;
    if (!object_[key].is_object()) throw DataError("{}: {} must be an object", file_, key);
    return ConfigReader(object_[key], file_ + ": " + key);
  }

  static std::string shown(const json& value) {
    std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    return text.size() <= 40 ? text : text.substr(0, 37) + "...";
  }

 private:
  const json& object_;
  std::string file_;
};

/// What distinguishes a family, and the defaults of its HF configuration class.
struct Family {
  const char* architecture;
  const char* model_type;
  std::int64_t kv_heads;       // if the field is missing; 0: as many as heads
  std::int64_t max_positions;  // if missing
  std::int64_t head_dim;       // if missing; 0: hidden_size / heads
  bool qkv_bias = false, qk_norm = false;
};
constexpr std::array kFamilies{
    Family{"LlamaForCausalLM", "llama", 0, 2048, 0},
    Family{"MistralForCausalLM", "mistral", 8, 131'072, 0},
    Family{.architecture = "Qwen2ForCausalLM",
           .model_type = "qwen2",
           .kv_heads = 32,
           .max_positions = 32'768,
           .head_dim = 0,
           .qkv_bias = true},
    Family{.architecture = "Qwen3ForCausalLM",
           .model_type = "qwen3",
           .kv_heads = 32,
           .max_positions = 32'768,
           .head_dim = 128,
           .qk_norm = true},
};
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 28;

std::string supported() {
  std::string list;
  for (const Family& f : kFamilies)
    list += (list.empty() ? "" : ", ") + std::string(f.architecture);
  return list;
}

const Family& family_of(const ConfigReader& config) {
  if (!config.has("architectures") || !config.at("architectures").is_array() ||
      config.at("architectures").size() != 1) {
    throw DataError("{}: architectures must name one architecture; supported: {}", config.file(),
                    supported());
  }
  const json& name = config.at("architectures")[0];
  const auto found = std::find_if(kFamilies.begin(), kFamilies.end(),
                                  [&](const Family& f) { return name == f.architecture; });
  if (found == kFamilies.end()) {
    throw DataError("{}: architecture {} is not supported; supported: {}", config.file(),
                    ConfigReader::shown(name), supported());
  }
  if (const std::string type = config.text("model_type", found->model_type);
      type != found->model_type) {
    throw DataError("{}: model_type {} does not belong to architecture {} (which is {})",
                    config.file(), ConfigReader::shown(type), found->architecture,
                    found->model_type);
  }
  return *found;
}

/// What changes the arithmetic and is not there must be refused, not ignored.
void refuse_unsupported(const ConfigReader& config, const Family& family) {
  const std::string activation = config.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    throw DataError("{}: hidden_act {} is not supported; supported: silu", config.file(),
                    ConfigReader::shown(activation));
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    // Qwen2 has its biases whatever the field says.
    if (family.qkv_bias && key == std::string_view("attention_bias")) continue;
    if (config.flag(key, false))
      throw DataError("{}: {} true is not supported", config.file(), key);
  }
  if (config.has("quantization_config")) {
    throw DataError("{}: has a quantization_config; quantized weights are not supported",
                    config.file());
  }
}

struct Rope {
  double theta = 10000;
  RopeScaling scaling;
};

/// What one object, rope_scaling (the old spelling) or rope_parameters (the new), says. Only the
/// new one has a type where none is given: it holds theta as well.
RopeScaling rope_scaling(const ConfigReader& rope, bool needs_type) {
  if (needs_type && !rope.has("rope_type") && !rope.has("type")) {
    throw DataError("{}: has no rope_type; say one of default, linear, llama3", rope.file());
  }
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (rope.text("type", type) != type) {
    throw DataError("{}: type {} and rope_type {} contradict each other", rope.file(),
                    ConfigReader::shown(rope.text("type", type)), ConfigReader::shown(type));
  }
  RopeScaling scaling;
  if (type == "default" || type == "none") {
    for (const char* key :
         {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
      if (rope.has(key)) {
        throw DataError("{}: {} has no meaning with rope_type {}; which scaling is meant?",
                        rope.file(), key, ConfigReader::shown(type));
      }
    }
    return scaling;
  }
  constexpr double kMostFactor = 1e6;
  if (type == "linear") {
    scaling.type = RopeScaling::Type::linear;
    scaling.factor = rope.number("factor", 1, kMostFactor);
    return scaling;
  }
  if (type != "llama3") {
    throw DataError("{} of type {} is not supported; supported: default, linear, llama3",
                    rope.file(), ConfigReader::shown(type));
  }
  scaling.type = RopeScaling::Type::llama3;
  scaling.factor = rope.number("factor", 1, kMostFactor);
  scaling.low_freq_factor = rope.number("low_freq_factor", 0, kMostFactor);
  scaling.high_freq_factor = rope.number("high_freq_factor", 0, kMostFactor);
  if (!(scaling.high_freq_factor > scaling.low_freq_factor)) {
    throw DataError("{}: high_freq_factor {} must exceed low_freq_factor {}", rope.file(),
                    scaling.high_freq_factor, scaling.low_freq_factor);
  }
  scaling.original_positions = rope.integer("original_max_position_embeddings", kMaxPositions);
  return scaling;
}

Rope read_rope(const ConfigReader& config) {
  constexpr double kMostTheta = 1e12;
  Rope result;
  std::optional<double> theta;
  const auto read_theta = [&](const ConfigReader& object) {
    if (!object.has("rope_theta")) return;
    const double value = object.number("rope_theta", 1, kMostTheta);
    if (theta && *theta != value) {
      throw DataError("{}: rope_theta {} and {} contradict each other", config.file(), *theta,
                      value);
    }
    result.theta = value;
    theta = value;
  };
  read_theta(config);
  const auto refuse_partial = [](const ConfigReader& object) {
    if (object.has("partial_rotary_factor") && object.number("partial_rotary_factor", 0, 1) != 1)
      throw DataError("{}: partial_rotary_factor below 1 is not supported", object.file());
  };
  refuse_partial(config);
  bool scaled = false;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = config.nested(key);
    if (!rope) continue;
    for (const char* kind : {"full_attention", "sliding_attention"}) {
      if (rope->has(kind))
        throw DataError("{}: a rope per kind of layer is not supported", rope->file());
    }
    refuse_partial(*rope);
    const RopeScaling scaling = rope_scaling(*rope, key == std::string_view("rope_scaling"));
    if (scaled && scaling != result.scaling) {
      throw DataError("{}: rope_scaling and rope_parameters contradict each other", config.file());
    }
    result.scaling = scaling;
    scaled = true;
    read_theta(*rope);
  }
  return result;
}

/// Mistral: one window in every layer. Qwen: in the layers that layer_types names, or in those from
/// max_window_layers on.
std::vector<std::int64_t> attention_windows(const ConfigReader& config, const Family& family,
                                            std::int64_t layers) {
  constexpr std::int64_t kDefaultWindow = 4096, kDefaultFirstLayer = 28;
  const bool mistral = family.model_type == std::string_view("mistral");
  if (!mistral && !family.qkv_bias && !family.qk_norm) return {};
  std::int64_t window = 0;
  if ((mistral || config.flag("use_sliding_window", false)) && !config.is_null("sliding_window")) {
    window = config.has("sliding_window") ? config.integer("sliding_window", kMaxPositions)
                                          : kDefaultWindow;
  }
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  if (config.has("layer_types")) {
    if (mistral) throw DataError("{}: layer_types is not supported for mistral", config.file());
    const json& types = config.at("layer_types");
    if (!types.is_array() || types.size() != windows.size()) {
      throw DataError("{}: layer_types must be a list of {} names", config.file(), layers);
    }
    for (std::size_t l = 0; l < windows.size(); ++l) {
      if (types[l] != "full_attention" && types[l] != "sliding_attention") {
        throw DataError(
            "{}: layer type {} is not supported; supported: full_attention, sliding_attention",
            config.file(), ConfigReader::shown(types[l]));
      }
      if (types[l] == "full_attention") continue;
      if (window == 0) {
        throw DataError("{}: layer {} is sliding_attention, but there is no sliding_window in use",
                        config.file(), l);
      }
      windows[l] = window;
    }
  } else {
    std::int64_t first = 0;
    if (!mistral) {
      first = config.has("max_window_layers") ? config.integer("max_window_layers", 1 << 20, 0)
                                              : kDefaultFirstLayer;
    }
    for (std::int64_t l = first; l < layers; ++l) windows[static_cast<std::size_t>(l)] = window;
  }
  const bool any = std::any_of(windows.begin(), windows.end(), [](auto w) { return w > 0; });
  return any ? windows : std::vector<std::int64_t>{};
}

}  // namespace

LlamaConfig read_llama_config(const std::filesystem::path& path) {
  const json object = read_json(path);
  const std::string file = path.string();
  if (!object.is_object()) throw DataError("{}: is not a JSON object", file);
  const ConfigReader config(object, file);
  const Family& family = family_of(config);
  refuse_unsupported(config, family);

  LlamaConfig c;
  c.model_type = family.model_type;
  c.vocab_size = config.integer("vocab_size", std::int64_t{1} << 24);
  c.hidden_size = config.integer("hidden_size", std::int64_t{1} << 17);
  c.intermediate_size = config.integer("intermediate_size", std::int64_t{1} << 19);
  c.layers = config.integer("num_hidden_layers", 4096);
  c.heads = config.integer("num_attention_heads", 4096);
  if (config.has("num_key_value_heads")) {
    c.kv_heads = config.integer("num_key_value_heads", 4096);
  } else {
    const bool as_heads = family.kv_heads == 0 || config.is_null("num_key_value_heads");
    c.kv_heads = as_heads ? c.heads : family.kv_heads;
  }
  if (c.heads % c.kv_heads != 0) {
    throw DataError("{}: num_attention_heads {} is no multiple of num_key_value_heads {}", file,
                    c.heads, c.kv_heads);
  }
  if (config.has("head_dim")) {
    c.head_dim = config.integer("head_dim", 4096);
  } else if (family.head_dim != 0) {
    c.head_dim = family.head_dim;
  } else {
    if (c.hidden_size % c.heads != 0) {
      throw DataError(
          "{}: hidden_size {} is no multiple of num_attention_heads {}, and there is no head_dim",
          file, c.hidden_size, c.heads);
    }
    c.head_dim = c.hidden_size / c.heads;
  }
  if (c.head_dim % 2 != 0) throw DataError("{}: head_dim {} must be even", file, c.head_dim);
  c.rms_norm_eps = config.has("rms_norm_eps") ? config.number("rms_norm_eps", 0, 1) : 1e-6;
  const Rope rope = read_rope(config);
  c.rope_theta = rope.theta;
  c.rope_scaling = rope.scaling;
  c.max_positions = config.has("max_position_embeddings")
                        ? config.integer("max_position_embeddings", kMaxPositions)
                        : family.max_positions;
  if (rope.scaling.type == RopeScaling::Type::linear) {
    c.max_positions = static_cast<std::int64_t>(
        std::min(static_cast<double>(c.max_positions) * rope.scaling.factor,
                 static_cast<double>(kMaxPositions)));
  }
  c.tied_embeddings = config.flag("tie_word_embeddings", false);
  c.qkv_bias = family.qkv_bias;
  c.qk_norm = family.qk_norm;
  c.attention_window = attention_windows(config, family, c.layers);
  return c;
}

}  // namespace graphlora
