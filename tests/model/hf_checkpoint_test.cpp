#include "model/hf_checkpoint.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "core/error.hpp"
#include "core/file.hpp"
#include "llm_fixture.hpp"

namespace graphlora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Tensors = std::map<std::string, at::Tensor>;

const Precision kFp32{at::kFloat, at::kFloat};

/// A copy of the tiny model in a temporary directory, to damage.
class Model {
 public:
  Model()
      : directory_(fs::temp_directory_path() /
                   fmt::format("graphlora-hf-{}-{}", getpid(), counter_++)) {
    fs::create_directories(directory_);
    const fs::path source = testing::golden_directory() / "tiny_llama";
    for (const char* file : {"config.json", "model.safetensors"})
      fs::copy_file(source / file, directory_ / file);
  }
  ~Model() { fs::remove_all(directory_); }
  const fs::path& directory() const { return directory_; }
  void edit_config(const std::function<void(json&)>& change) {
    json config = read_json(directory_ / "config.json");
    change(config);
    write_json(directory_ / "config.json", config);
  }
  Tensors tensors() const {
    const SafetensorsReader reader(testing::golden_directory() / "tiny_llama" /
                                   "model.safetensors");
    Tensors all;
    for (const auto& [name, entry] : reader.entries()) all[name] = reader.tensor(name).clone();
    return all;
  }
  void write(const std::string& file, const Tensors& tensors) {
    write_safetensors(directory_ / file, {tensors.begin(), tensors.end()});
  }
  void edit_tensors(const std::function<void(Tensors&)>& change) {
    Tensors all = tensors();
    change(all);
    write("model.safetensors", all);
  }

 private:
  static inline int counter_ = 0;
  fs::path directory_;
};

void expect_refused(const Model& model, const std::string& part, const char* name) {
  try {
    HfCheckpoint(model.directory()).load(kFp32, 1, 2);
    ADD_FAILURE() << name << ": accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data) << name;
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
        << name << ": " << error.what();
    EXPECT_NE(std::string(error.what()).find(model.directory().string()), std::string::npos)
        << name << ": " << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << name;
  }
}

TEST(HfCheckpoint, LoadsEveryPrecision) {
  const Model model;
  const HfCheckpoint checkpoint(model.directory());
  EXPECT_EQ(checkpoint.config().kv_heads, 3);
  EXPECT_EQ(checkpoint.config().head_dim, 4);
  EXPECT_FALSE(checkpoint.config().tied_embeddings);
  const Tensors tensors = model.tensors();
  for (const auto type : {at::kBFloat16, at::kFloat, at::kDouble}) {
    const BaseWeights w = checkpoint.load({type, at::kFloat}, 5, 7);
    const std::string layer = "model.layers.1.";
    const auto file = [&](const std::string& name) { return tensors.at(name).to(type); };
    EXPECT_TRUE(w.embedding_VH.equal(file("model.embed_tokens.weight")));
    EXPECT_TRUE(w.layers[1].qkv_OH.equal(
        at::cat({file(layer + "self_attn.q_proj.weight"), file(layer + "self_attn.k_proj.weight"),
                 file(layer + "self_attn.v_proj.weight")})));
    EXPECT_TRUE(w.layers[1].gate_up_OH.equal(
        at::cat({file(layer + "mlp.gate_proj.weight"), file(layer + "mlp.up_proj.weight")})));
    EXPECT_TRUE(w.layers[1].down_HI.equal(file(layer + "mlp.down_proj.weight")));
    EXPECT_TRUE(w.head_2H.equal(file("lm_head.weight").index_select(0, at::tensor({5, 7}))));
    EXPECT_FALSE(w.layers[1].o_HQ.requires_grad());
  }
  EXPECT_THROW(checkpoint.load(kFp32, 300, 1), DataError);
  EXPECT_THROW(checkpoint.load(kFp32, 1, -1), DataError);
}

TEST(HfCheckpoint, ShardsEqualTheSingleFile) {
  Model model;
  const std::string whole = HfCheckpoint(model.directory()).fingerprint();
  const BaseWeights expected = HfCheckpoint(model.directory()).load(kFp32, 1, 2);
  const BaseWeights copy = testing::cast(expected, at::kDouble);  // survives the file
  Tensors first, second;
  json index;
  for (const auto& [name, tensor] : model.tensors()) {
    const bool early = name < "model.layers.1.mlp.up";  // splits one layer's q, k, v and gate, up
    (early ? first : second)[name] = tensor;
    index["weight_map"][name] =
        early ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
  }
  model.write("model-00001-of-00002.safetensors", first);
  model.write("model-00002-of-00002.safetensors", second);
  write_json(model.directory() / "model.safetensors.index.json", index);
  fs::remove(model.directory() / "model.safetensors");
  const HfCheckpoint sharded(model.directory());
  const BaseWeights w = sharded.load(kFp32, 1, 2);
  for (std::size_t l = 0; l < 3; ++l) {
    EXPECT_TRUE(w.layers[l].qkv_OH.to(at::kDouble).equal(copy.layers[l].qkv_OH));
    EXPECT_TRUE(w.layers[l].gate_up_OH.to(at::kDouble).equal(copy.layers[l].gate_up_OH));
  }
  EXPECT_NE(sharded.fingerprint(), whole);
}

TEST(HfCheckpoint, FingerprintFollowsTheConfiguration) {
  Model a;
  const Model b;
  EXPECT_EQ(HfCheckpoint(a.directory()).fingerprint(), HfCheckpoint(b.directory()).fingerprint());
  a.edit_config([](json& c) { c["rope_theta"] = 20000.0; });
  EXPECT_NE(HfCheckpoint(a.directory()).fingerprint(), HfCheckpoint(b.directory()).fingerprint());
}

TEST(HfCheckpoint, BothSpellingsOfRope) {
  Model model;
  const auto theta = [&] { return HfCheckpoint(model.directory()).config().rope_theta; };
  model.edit_config([](json& c) { c["rope_theta"] = 5e5; });
  EXPECT_EQ(theta(), 5e5);
  model.edit_config([](json& c) { c["rope_scaling"] = {{"type", "default"}}; });
  EXPECT_EQ(theta(), 5e5);
  model.edit_config([](json& c) {
    c.erase("rope_theta");
    c.erase("rope_scaling");
    c["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  });
  EXPECT_EQ(theta(), 1e6);
}

TEST(HfCheckpoint, RefusesHostileConfigurations) {
  struct Case {
    const char* name;
    std::function<void(json&)> change;
    std::string part;
  };
  const auto set = [](const char* key, const json& value) {
    return [=](json& c) { c[key] = value; };
  };
  const auto erase = [](const char* key) { return [=](json& c) { c.erase(key); }; };
  const std::vector<Case> cases{
      {"other architecture", set("architectures", {"MistralForCausalLM"}),
       "supported: LlamaForCausalLM"},
      {"no architecture", erase("architectures"), "supported: LlamaForCausalLM"},
      {"architectures a string", set("architectures", "LlamaForCausalLM"),
       "supported: LlamaForCausalLM"},
      {"two architectures", set("architectures", {"LlamaForCausalLM", "LlamaForCausalLM"}),
       "one architecture"},
      {"negative layers", set("num_hidden_layers", -3), "num_hidden_layers is -3"},
      {"no layers", set("num_hidden_layers", 0), "num_hidden_layers is 0"},
      {"absurd layers", set("num_hidden_layers", 1'000'000'000), "num_hidden_layers"},
      {"hidden 2^63", set("hidden_size", std::uint64_t{1} << 63),
       "hidden_size is 9223372036854775808"},
      {"hidden -2^63", set("hidden_size", std::numeric_limits<std::int64_t>::min()), "hidden_size"},
      {"fractional", set("vocab_size", 300.5), "vocab_size is 300.5, must be an integer"},
      {"text for a number", set("intermediate_size", "50"), "intermediate_size"},
      {"missing", erase("vocab_size"), "has no vocab_size"},
      {"null", set("num_attention_heads", nullptr), "has no num_attention_heads"},
      {"heads no multiple", set("num_key_value_heads", 2), "no multiple of num_key_value_heads"},
      {"odd head", set("head_dim", 5), "must be even"},
      {"zero eps", set("rms_norm_eps", 0.0), "rms_norm_eps"},
      {"negative theta", set("rope_theta", -1), "rope_theta"},
      {"text theta", set("rope_theta", "big"), "rope_theta"},
      {"rope scaling", set("rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}),
       "llama3 is not supported"},
      {"old rope scaling", set("rope_scaling", {{"type", "linear"}}), "linear is not supported"},
      {"new rope scaling", set("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}),
       "yarn is not supported"},
      {"rope scaling a list", set("rope_scaling", json::array()), "rope_scaling must be an object"},
      {"gelu", set("hidden_act", "gelu"), "gelu is not supported; supported: silu"},
      {"attention bias", set("attention_bias", true), "attention_bias true"},
      {"mlp bias", set("mlp_bias", true), "mlp_bias true"},
      {"bias a number", set("mlp_bias", 1), "mlp_bias must be true or false"},
      {"another model's hidden size", set("hidden_size", 72), "but config.json asks for"},
      {"more layers than weights", set("num_hidden_layers", 4), "has no tensor model.layers.3"},
      {"a list", [](json& c) { c = json::array({1}); }, "is not a JSON object"},
  };
  for (const Case& c : cases) {
    Model model;
    model.edit_config(c.change);
    expect_refused(model, c.part, c.name);
  }
}

TEST(HfCheckpoint, RefusesHostileWeights) {
  struct Case {
    const char* name;
    std::function<void(Model&)> damage;
    std::string part;
  };
  const auto edit = [](const std::function<void(Tensors&)>& change) {
    return [=](Model& m) { m.edit_tensors(change); };
  };
  const auto index = [](const json& contents) {
    return [=](Model& m) {
      fs::remove(m.directory() / "model.safetensors");
      write_json(m.directory() / "model.safetensors.index.json", contents);
    };
  };
  const std::string q = "model.layers.0.self_attn.q_proj.weight",
                    norm = "model.layers.2.input_layernorm.weight";
  const std::vector<Case> cases{
      {"no weights", [](Model& m) { fs::remove(m.directory() / "model.safetensors"); },
       "has neither"},
      {"no config", [](Model& m) { fs::remove(m.directory() / "config.json"); }, "config.json"},
      {"config no JSON", [](Model& m) { std::ofstream(m.directory() / "config.json") << "{"; },
       "config.json"},
      {"empty weights", [](Model& m) { fs::resize_file(m.directory() / "model.safetensors", 0); },
       "model.safetensors"},
      {"truncated", [](Model& m) { fs::resize_file(m.directory() / "model.safetensors", 100'000); },
       "model.safetensors"},
      {"missing tensor", edit([=](Tensors& t) { t.erase(q); }), "has no tensor " + q},
      {"no head", edit([](Tensors& t) { t.erase("lm_head.weight"); }),
       "has no tensor lm_head.weight"},
      {"NaN matrix", edit([=](Tensors& t) { t[q][3][4] = NAN; }), q + " holds NaN"},
      {"NaN in v",
       edit([](Tensors& t) { t["model.layers.1.self_attn.v_proj.weight"][0][0] = NAN; }),
       "v_proj.weight holds NaN"},
      {"infinite norm", edit([=](Tensors& t) { t[norm][1] = INFINITY; }),
       norm + " holds NaN or infinity"},
      {"NaN embedding", edit([](Tensors& t) { t["model.embed_tokens.weight"][299][35] = NAN; }),
       "embed_tokens.weight holds NaN"},
      {"NaN head", edit([](Tensors& t) { t["lm_head.weight"][2][0] = NAN; }), "LM head"},
      {"integers", edit([=](Tensors& t) { t[q] = t[q].to(at::kInt); }), "no floating-point tensor"},
      {"transposed", edit([](Tensors& t) {
         t["model.layers.0.self_attn.k_proj.weight"] = at::randn({36, 12});
       }),
       "shape [36,12]"},
      {"flat", edit([=](Tensors& t) { t[q] = t[q].flatten(); }), "shape [1296]"},
      {"index without map", index({{"metadata", 1}}), "weight_map"},
      {"index with a number", index({{"weight_map", {{q, 1}}}}), "no string"},
      {"index outside", index({{"weight_map", {{q, "../model.safetensors"}}}}), "plain name"},
      {"index absolute", index({{"weight_map", {{q, "/etc/passwd"}}}}), "plain name"},
      {"index names nothing", index({{"weight_map", json::object()}}), "lists 0 files"},
      {"index names a missing file", index({{"weight_map", {{q, "gone.safetensors"}}}}),
       "gone.safetensors"},
  };
  for (const Case& c : cases) {
    Model model;
    c.damage(model);
    expect_refused(model, c.part, c.name);
  }
}

}  // namespace
}  // namespace graphlora
