#include <cmath>
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

  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  std::int64_t integer(const char* key, std::int64_t most) const {
    if (!has(key)) throw DataError("{}: has no {}", file_, key);
    const json& value = object_[key];
    if (!value.is_number_integer())
      throw DataError("{}: {} is {}, must be an integer", file_, key, shown(value));
    const bool fits = value.is_number_unsigned()
                          ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most)
                          : value.get<std::int64_t>() <= most;
    if (!fits || value.get<std::int64_t>() < 1) {
      throw DataError("{}: {} is {}, must be from 1 to {}", file_, key, shown(value), most);
    }
    return value.get<std::int64_t>();
  }

  double positive(const char* key, double otherwise, double most) const {
    if (!has(key)) return otherwise;
    const json& value = object_[key];
    if (!value.is_number() || !(value.get<double>() > 0 && value.get<double>() <= most)) {
      throw DataError("{}: {} is {}, must be a number above 0, at most {}", file_, key,
                      shown(value), most);
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

void require_architecture(const json& object, const std::string& file) {
  const auto found = object.find("architectures");
  if (found == object.end() || !found->is_array() || found->size() != 1) {
    throw DataError("{}: architectures must name one architecture; supported: LlamaForCausalLM",
                    file);
  }
  if ((*found)[0] != "LlamaForCausalLM") {
    throw DataError("{}: architecture {} is not supported; supported: LlamaForCausalLM", file,
                    ConfigReader::shown((*found)[0]));
  }
}

/// rope_theta and the refusal of scaling, in the old spelling (rope_theta, rope_scaling) and the
/// new (rope_parameters).
double rope_theta(const ConfigReader& config, const std::string& file) {
  double theta = config.positive("rope_theta", 10000, 1e12);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = config.nested(key);
    if (!rope) continue;
    const std::string type = rope->text("rope_type", rope->text("type", "default"));
    if (type != "default" && type != "none") {
      throw DataError("{}: {} of type {} is not supported; supported: default (none)", file, key,
                      type);
    }
    theta = rope->positive("rope_theta", theta, 1e12);
  }
  return theta;
}

}  // namespace

LlamaConfig read_llama_config(const std::filesystem::path& path) {
  const json object = read_json(path);
  const std::string file = path.string();
  if (!object.is_object()) throw DataError("{}: is not a JSON object", file);
  require_architecture(object, file);
  const ConfigReader config(object, file);
  if (const std::string activation = config.text("hidden_act", "silu"); activation != "silu") {
    throw DataError("{}: hidden_act {} is not supported; supported: silu", file, activation);
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (config.flag(key, false)) throw DataError("{}: {} true is not supported", file, key);
  }

  LlamaConfig c;
  c.model_type = config.text("model_type", "llama");
  c.vocab_size = config.integer("vocab_size", std::int64_t{1} << 24);
  c.hidden_size = config.integer("hidden_size", std::int64_t{1} << 17);
  c.intermediate_size = config.integer("intermediate_size", std::int64_t{1} << 19);
  c.layers = config.integer("num_hidden_layers", 4096);
  c.heads = config.integer("num_attention_heads", 4096);
  c.kv_heads =
      config.has("num_key_value_heads") ? config.integer("num_key_value_heads", 4096) : c.heads;
  if (c.heads % c.kv_heads != 0) {
    throw DataError("{}: num_attention_heads {} is no multiple of num_key_value_heads {}", file,
                    c.heads, c.kv_heads);
  }
  if (config.has("head_dim")) {
    c.head_dim = config.integer("head_dim", 4096);
  } else {
    if (c.hidden_size % c.heads != 0) {
      throw DataError(
          "{}: hidden_size {} is no multiple of num_attention_heads {}, and there is no head_dim",
          file, c.hidden_size, c.heads);
    }
    c.head_dim = c.hidden_size / c.heads;
  }
  if (c.head_dim % 2 != 0) throw DataError("{}: head_dim {} must be even", file, c.head_dim);
  c.max_positions = config.integer("max_position_embeddings", std::int64_t{1} << 28);
  c.rms_norm_eps = config.positive("rms_norm_eps", 1e-6, 1);
  c.rope_theta = rope_theta(config, file);
  c.tied_embeddings = config.flag("tie_word_embeddings", false);
  return c;
}

}  // namespace graphlora
