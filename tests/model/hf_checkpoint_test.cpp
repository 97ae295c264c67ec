#include "model/hf_checkpoint.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "core/error.hpp"
#include "core/file.hpp"
#include "llm_fixture.hpp"
#include "model/model_slice.hpp"
#include "peak_memory.hpp"

namespace graphlora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Tensors = std::map<std::string, at::Tensor>;

const Precision kFp32{at::kFloat, at::kFloat};

/// A copy of the tiny model in a temporary directory, to damage.
class Model {
 public:
  explicit Model(const std::string& name = "tiny_llama")
      : source_(testing::golden_directory() / name),
        directory_(fs::temp_directory_path() /
                   fmt::format("graphlora-hf-{}-{}", getpid(), counter_++)) {
    fs::create_directories(directory_);
    for (const char* file : {"config.json", "model.safetensors"})
      fs::copy_file(source_ / file, directory_ / file);
  }
  ~Model() { fs::remove_all(directory_); }
  const fs::path& directory() const { return directory_; }
  void edit_config(const std::function<void(json&)>& change) {
    json config = read_json(directory_ / "config.json");
    change(config);
    write_json(directory_ / "config.json", config);
  }
  Tensors tensors() const {
    const SafetensorsReader reader(source_ / "model.safetensors");
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
  fs::path source_, directory_;
};

/// Reads a configuration given as JSON.
LlamaConfig config_of(const json& object) {
  const fs::path path =
      fs::temp_directory_path() / fmt::format("graphlora-config-{}.json", getpid());
  write_json(path, object);
  const LlamaConfig config = read_llama_config(path);
  fs::remove(path);
  return config;
}

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

TEST(HfCheckpoint, SlicesTogetherAreTheWhole) {
  for (const char* name : {"tiny_llama", "tiny_qwen2", "tiny_qwen3"}) {  // 9 heads in 3 groups
    const HfCheckpoint checkpoint(testing::golden_directory() / name);
    const LlamaConfig& c = checkpoint.config();
    const BaseWeights whole = checkpoint.load(kFp32, 5, 7);
    for (const int size : {1, 2, 3}) {  // 2 + 1 groups at 2
      std::vector<ModelSlice> slices;
      std::vector<BaseWeights> parts;
      for (int rank = 0; rank < size; ++rank) {
        slices.push_back(ModelSlice::of(c, size, rank));
        parts.push_back(checkpoint.load(kFp32, 5, 7, slices.back()));
      }
      using Sizes = std::function<std::vector<std::int64_t>(const ModelSlice&)>;
      // Cuts each rank's stack into its linears and joins those of one linear; the whole must be
      // the same cut of the whole.
      const auto expect_joined = [&](std::size_t layer, const at::Tensor LayerWeights::*weight,
                                     const Sizes& sizes, std::int64_t dim) {
        const auto expected =
            (whole.layers[layer].*weight).split_with_sizes(sizes(ModelSlice::whole(c)), dim);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          std::vector<at::Tensor> pieces;
          for (std::size_t r = 0; r < parts.size(); ++r) {
            const at::Tensor& part = parts[r].layers[layer].*weight;
            EXPECT_TRUE(part.is_contiguous());
            pieces.push_back(part.split_with_sizes(sizes(slices[r]), dim)[i]);
          }
          EXPECT_TRUE(at::cat(pieces, dim).equal(expected[i])) << name << " " << size << " " << i;
        }
      };
      const Sizes qkv = [&](const ModelSlice& s) {
        return std::vector{s.heads * c.head_dim, s.groups * c.head_dim, s.groups * c.head_dim};
      };
      const Sizes q = [&](const ModelSlice& s) { return std::vector{s.heads * c.head_dim}; };
      const Sizes gate_up = [&](const ModelSlice& s) { return std::vector{s.columns, s.columns}; };
      const Sizes down = [&](const ModelSlice& s) { return std::vector{s.columns}; };
      for (std::size_t l = 0; l < whole.layers.size(); ++l) {
        const LayerWeights& w = whole.layers[l];
        expect_joined(l, &LayerWeights::qkv_OH, qkv, 0);
        expect_joined(l, &LayerWeights::o_HQ, q, 1);
        expect_joined(l, &LayerWeights::gate_up_OH, gate_up, 0);
        expect_joined(l, &LayerWeights::down_HI, down, 1);
        ASSERT_EQ(w.qkv_bias_O.defined(), c.qkv_bias);
        ASSERT_EQ(w.q_norm_D.defined() && w.k_norm_D.defined(), c.qk_norm);
        if (c.qkv_bias) expect_joined(l, &LayerWeights::qkv_bias_O, qkv, 0);
        for (const BaseWeights& part : parts) {
          for (const auto norm : {&LayerWeights::input_norm_H, &LayerWeights::post_attention_norm_H,
                                  &LayerWeights::q_norm_D, &LayerWeights::k_norm_D}) {
            EXPECT_TRUE(!(w.*norm).defined() || (part.layers[l].*norm).equal(w.*norm));
          }
        }
      }
      for (const BaseWeights& part : parts) {
        EXPECT_TRUE(part.embedding_VH.equal(whole.embedding_VH));
        EXPECT_TRUE(part.final_norm_H.equal(whole.final_norm_H));
        EXPECT_TRUE(part.head_2H.equal(whole.head_2H));
      }
    }
  }
}

/// Bytes of a rank's weights, the embedding's by its part of the rows.
double share_of(const BaseWeights& w, int size) {
  std::size_t bytes = w.embedding_VH.nbytes() / static_cast<std::size_t>(size) +
                      w.final_norm_H.nbytes() + w.head_2H.nbytes();
  for (const LayerWeights& l : w.layers) {
    for (const at::Tensor* t :
         {&l.qkv_OH, &l.o_HQ, &l.gate_up_OH, &l.down_HI, &l.input_norm_H, &l.post_attention_norm_H,
          &l.qkv_bias_O, &l.q_norm_D, &l.k_norm_D}) {
      if (t->defined()) bytes += t->nbytes();
    }
  }
  return static_cast<double>(bytes);
}

TEST(HfCheckpoint, ReadsNoMoreThanTheSlices) {
  for (const char* name : {"tiny_llama", "tiny_qwen2", "tiny_qwen3"}) {
    for (const int size : {1, 2, 3}) {
      for (int rank = 0; rank < size; ++rank) {
        Model model(name);
        const LlamaConfig c = read_llama_config(model.directory() / "config.json");
        const ModelSlice slice = ModelSlice::of(c, size, rank);
        const auto type = model.tensors().at("model.norm.weight").scalar_type();
        const BaseWeights expected =
            HfCheckpoint(model.directory()).load({type, at::kFloat}, 5, 7, slice);
        // The file holds its own type, so that the weights are as large as what was read.
        EXPECT_LE(static_cast<double>(expected.bytes_read), 1.1 * share_of(expected, size));
        EXPECT_GE(static_cast<double>(expected.bytes_read), 0.9 * share_of(expected, size));

        // Other ranks' weights are NaN: who looks at them, fails.
        model.edit_tensors([&](Tensors& all) {
          const std::int64_t dim = c.head_dim, q = slice.first_head * dim,
                             q_size = slice.heads * dim, kv = slice.first_group * dim,
                             kv_size = slice.groups * dim;
          const auto keep = [&](at::Tensor& t, std::int64_t d, std::int64_t begin,
                                std::int64_t count) {
            const at::Tensor kept = t.narrow(d, begin, count).clone();
            t.fill_(NAN);
            t.narrow(d, begin, count).copy_(kept);
          };
          for (auto& [tensor, t] : all) {
            const auto is = [&](const char* part) { return tensor.find(part) != tensor.npos; };
            if (is("q_proj")) keep(t, 0, q, q_size);
            if (is("k_proj") || is("v_proj")) keep(t, 0, kv, kv_size);
            if (is("o_proj")) keep(t, 1, q, q_size);
            if (is("gate_proj") || is("up_proj")) keep(t, 0, slice.first_column, slice.columns);
            if (is("down_proj")) keep(t, 1, slice.first_column, slice.columns);
          }
        });
        const BaseWeights w = HfCheckpoint(model.directory()).load({type, at::kFloat}, 5, 7, slice);
        EXPECT_TRUE(w.layers[1].down_HI.equal(expected.layers[1].down_HI)) << name << size << rank;
        EXPECT_EQ(w.bytes_read, expected.bytes_read);
        if (size > 1) {
          EXPECT_THROW(HfCheckpoint(model.directory()).load({type, at::kFloat}, 5, 7), DataError);
        }
      }
    }
  }
}

TEST(HfCheckpoint, UnalignedFilesGiveTheSameSlices) {
  const Model model, moved;
  std::string bytes = read_file(model.directory() / "model.safetensors");
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  bytes.insert(8 + header, 1, ' ');
  ++header;
  std::memcpy(bytes.data(), &header, 8);
  write_file(moved.directory() / "model.safetensors", bytes);
  const HfCheckpoint aligned(model.directory()), unaligned(moved.directory());
  const auto type = aligned.stored_type();
  for (int rank = 0; rank < 3; ++rank) {
    const ModelSlice slice = ModelSlice::of(aligned.config(), 3, rank);
    const BaseWeights a = aligned.load({type, at::kFloat}, 5, 7, slice),
                      b = unaligned.load({type, at::kFloat}, 5, 7, slice);
    for (std::size_t l = 0; l < a.layers.size(); ++l) {
      EXPECT_TRUE(a.layers[l].qkv_OH.equal(b.layers[l].qkv_OH));
      EXPECT_TRUE(a.layers[l].o_HQ.equal(b.layers[l].o_HQ));
      EXPECT_TRUE(a.layers[l].gate_up_OH.equal(b.layers[l].gate_up_OH));
      EXPECT_TRUE(a.layers[l].down_HI.equal(b.layers[l].down_HI));
    }
    EXPECT_TRUE(a.embedding_VH.equal(b.embedding_VH));
    EXPECT_TRUE(a.head_2H.equal(b.head_2H));
  }
}

TEST(HfCheckpoint, TiedHeadsAndRotaryTablesMayStandInTheFile) {
  Model model("tiny_llama_tied");
  model.edit_tensors([](Tensors& t) {
    t["lm_head.weight"] = t.at("model.embed_tokens.weight").clone();
    t["model.rotary_emb.inv_freq"] = at::ones({2});
  });
  EXPECT_NO_THROW(HfCheckpoint(model.directory()));
}

TEST(HfCheckpoint, TheRanksTogetherFindNaNInTheEmbedding) {
  for (const std::int64_t row : {0, 99, 100, 150, 299}) {
    Model model;
    model.edit_tensors([&](Tensors& t) { t["model.embed_tokens.weight"][row][7] = NAN; });
    const HfCheckpoint checkpoint(model.directory());
    for (const int size : {1, 2, 3}) {
      int found = 0;
      for (int rank = 0; rank < size; ++rank) {
        try {
          checkpoint.load(kFp32, 5, 7, ModelSlice::of(checkpoint.config(), size, rank));
        } catch (const DataError&) {
          ++found;
        }
      }
      EXPECT_EQ(found, 1) << row << " of " << size;
    }
  }
}

TEST(HfCheckpoint, SplitWeightsOfSmolLm2AtTwoRanks) {
  LlamaConfig c = testing::tiny_config();
  c.vocab_size = 49152;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.layers = 30;
  c.head_dim = 64;
  // Of one layer; all are alike. Two norms are on every rank.
  const auto elements = [&](const ModelSlice& s) {
    return static_cast<double>(c.hidden_size *
                                   (2 * (s.heads + s.groups) * c.head_dim + 3 * s.columns) +
                               2 * c.hidden_size);
  };
  const double whole = elements(ModelSlice::whole(c));
  EXPECT_EQ(whole * 30 + 576 + 49152 * 576, 134'515'008);  // as published
  for (const int rank : {0, 1})
    EXPECT_LE(elements(ModelSlice::of(c, 2, rank)), 0.55 * whole) << rank;
}

TEST(HfCheckpoint, Bf16OfAnFp32FileNeedsNoFp32Copy) {
  Model model;
  constexpr std::int64_t kHidden = 768, kMiddle = 3072, kVocabulary = 8192, kLayers = 4;
  model.edit_config([&](json& c) {
    c["hidden_size"] = kHidden;
    c["intermediate_size"] = kMiddle;
    c["vocab_size"] = kVocabulary;
    c["num_hidden_layers"] = kLayers;
    c["head_dim"] = 64;
    c["tie_word_embeddings"] = true;
  });
  {
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
      tensors.emplace_back(name, at::rand(shape));
    };
    add("model.embed_tokens.weight", {kVocabulary, kHidden});
    add("model.norm.weight", {kHidden});
    for (std::int64_t l = 0; l < kLayers; ++l) {
      const std::string layer = fmt::format("model.layers.{}.", l);
      add(layer + "input_layernorm.weight", {kHidden});
      add(layer + "post_attention_layernorm.weight", {kHidden});
      add(layer + "self_attn.q_proj.weight", {576, kHidden});
      add(layer + "self_attn.k_proj.weight", {192, kHidden});
      add(layer + "self_attn.v_proj.weight", {192, kHidden});
      add(layer + "self_attn.o_proj.weight", {kHidden, 576});
      add(layer + "mlp.gate_proj.weight", {kMiddle, kHidden});
      add(layer + "mlp.up_proj.weight", {kMiddle, kHidden});
      add(layer + "mlp.down_proj.weight", {kHidden, kMiddle});
    }
    write_safetensors(model.directory() / "model.safetensors", tensors);
  }
  const HfCheckpoint checkpoint(model.directory());
  const auto growth = [&](at::ScalarType type) {
    const std::size_t before = testing::reset_peak_memory();
    const BaseWeights w = checkpoint.load({type, at::kFloat}, 5, 7);
    EXPECT_EQ(w.layers[3].down_HI.scalar_type(), type);
    return std::pair(testing::peak_memory() - before, static_cast<std::size_t>(share_of(w, 1)));
  };
  // Beside the weights themselves: one tensor's pages of the file (the embedding's, 25 MB).
  const std::size_t pages = kVocabulary * kHidden * 4, slack = std::size_t{12} << 20;
  const auto [peak, weights] = growth(at::kBFloat16);
  EXPECT_GT(weights, std::size_t{75} << 20);
  EXPECT_LT(peak, weights + pages + slack) << weights;
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

TEST(HfCheckpoint, FingerprintsOfOlderCheckpointsStay) {
  // From before there were other families. A training checkpoint holds one, and must stay loadable.
  const auto of = [](const char* name) {
    return HfCheckpoint(testing::golden_directory() / name).fingerprint();
  };
  EXPECT_EQ(of("tiny_llama"), "911980aec0887d85dd20f9ed1c6ddfac2726c9229c3b3277ed43e97097d448c3");
  EXPECT_EQ(of("tiny_llama_tied"),
            "444770c1eed8d5fa65d83b3276bfd3d7878627e7309220c73470b73b54e81c81");
}

TEST(HfCheckpoint, FingerprintFollowsTheFamilysFields) {
  const auto differs = [](const char* name, const std::function<void(json&)>& change) {
    Model a(name);
    const Model b(name);
    a.edit_config(change);
    EXPECT_NE(HfCheckpoint(a.directory()).fingerprint(), HfCheckpoint(b.directory()).fingerprint())
        << name;
  };
  differs("tiny_mistral", [](json& c) { c["sliding_window"] = 8; });
  differs("tiny_mistral", [](json& c) { c["sliding_window"] = nullptr; });
  differs("tiny_qwen2", [](json& c) { c["max_window_layers"] = 0; });
  differs("tiny_llama3", [](json& c) { c["rope_scaling"]["factor"] = 31.0; });
  differs("tiny_llama3", [](json& c) { c["rope_scaling"]["low_freq_factor"] = 1.5; });
  differs("tiny_llama3",
          [](json& c) { c["rope_scaling"]["original_max_position_embeddings"] = 33; });
  differs("tiny_vicuna", [](json& c) { c["rope_scaling"] = nullptr; });
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

  for (const char* name : {"tiny_llama3", "tiny_vicuna"}) {
    const json old = read_json(testing::golden_directory() / name / "config.json");
    const LlamaConfig expected = config_of(old);
    EXPECT_NE(expected.rope_scaling, RopeScaling{});
    json other = old;
    json rope = old["rope_scaling"];
    const json type = rope.contains("type") ? rope["type"] : rope["rope_type"];
    rope.erase("type");
    rope["rope_type"] = type;
    other["rope_scaling"] = rope;
    EXPECT_EQ(config_of(other).rope_scaling, expected.rope_scaling);
    other["rope_scaling"]["type"] = type;  // transformers writes both
    EXPECT_EQ(config_of(other).rope_scaling, expected.rope_scaling);
    other.erase("rope_scaling");
    other.erase("rope_theta");
    if (old.contains("rope_theta")) rope["rope_theta"] = old["rope_theta"];
    other["rope_parameters"] = rope;
    const LlamaConfig newer = config_of(other);
    EXPECT_EQ(newer.rope_scaling, expected.rope_scaling) << name;
    EXPECT_EQ(newer.rope_theta, expected.rope_theta) << name;
    EXPECT_EQ(newer.max_positions, expected.max_positions) << name;
  }
}

/// Parameters of a whole model, tied heads once.
std::int64_t parameters(const LlamaConfig& c) {
  const std::int64_t q = c.heads * c.head_dim, k = c.kv_heads * c.head_dim, h = c.hidden_size;
  const std::int64_t layer = 2 * h + 2 * q * h + 2 * k * h + 3 * h * c.intermediate_size +
                             (c.qkv_bias ? q + 2 * k : 0) + (c.qk_norm ? 2 * c.head_dim : 0);
  return (c.tied_embeddings ? 1 : 2) * c.vocab_size * h + c.layers * layer + h;
}

TEST(HfCheckpoint, PublishedConfigurationsHaveTheirPublishedSizes) {
  const auto config = [](const char* architecture, const char* type, std::int64_t vocabulary,
                         std::int64_t hidden, std::int64_t middle, std::int64_t layers,
                         std::int64_t heads, const json& more) {
    json c = {{"architectures", {architecture}}, {"model_type", type},
              {"vocab_size", vocabulary},        {"hidden_size", hidden},
              {"intermediate_size", middle},     {"num_hidden_layers", layers},
              {"num_attention_heads", heads},    {"hidden_act", "silu"}};
    c.update(more);
    return config_of(c);
  };
  const json llama3 = {{"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192},
                       {"rope_type", "llama3"}};
  // Llama-2-7b as first published, and vicuna-7b-v1.5-16k
  LlamaConfig c = config("LlamaForCausalLM", "llama", 32000, 4096, 11008, 32, 32,
                         {{"max_position_embeddings", 4096},
                          {"max_length", 4096},
                          {"pad_token_id", 0},
                          {"rms_norm_eps", 1e-5},
                          {"rope_scaling", {{"factor", 4.0}, {"type", "linear"}}},
                          {"tie_word_embeddings", false}});
  EXPECT_EQ(parameters(c), 6'738'415'616);
  EXPECT_EQ(c.kv_heads, 32);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.max_positions, 16384);
  c = config("LlamaForCausalLM", "llama", 128256, 4096, 14336, 32, 32,
             {{"num_key_value_heads", 8},
              {"max_position_embeddings", 131072},
              {"rope_theta", 500000.0},
              {"rope_scaling", llama3},
              {"mlp_bias", false},
              {"tie_word_embeddings", false}});
  EXPECT_EQ(parameters(c), 8'030'261'248);  // Llama-3.1-8B
  EXPECT_EQ(c.max_positions, 131072);
  c = config("LlamaForCausalLM", "llama", 128256, 2048, 8192, 16, 32,
             {{"num_key_value_heads", 8},
              {"head_dim", 64},
              {"rope_scaling", llama3},
              {"tie_word_embeddings", true}});
  EXPECT_EQ(parameters(c), 1'235'814'400);  // Llama-3.2-1B
  c = config(
      "MistralForCausalLM", "mistral", 32000, 4096, 14336, 32, 32,
      {{"num_key_value_heads", 8}, {"max_position_embeddings", 32768}, {"sliding_window", 4096}});
  EXPECT_EQ(parameters(c), 7'241'732'096);  // Mistral-7B-v0.1
  EXPECT_EQ(c.window(31), 4096);
  c = config("MistralForCausalLM", "mistral", 131072, 5120, 14336, 40, 32,
             {{"num_key_value_heads", 8}, {"head_dim", 128}, {"sliding_window", nullptr}});
  EXPECT_EQ(parameters(c), 12'247'782'400);  // Mistral-Nemo
  EXPECT_EQ(c.window(0), 0);
  c = config("Qwen2ForCausalLM", "qwen2", 151936, 896, 4864, 24, 14,
             {{"num_key_value_heads", 2},
              {"max_window_layers", 21},
              {"sliding_window", 32768},
              {"use_sliding_window", false},
              {"tie_word_embeddings", true}});
  EXPECT_EQ(parameters(c), 494'032'768);  // Qwen2.5-0.5B
  EXPECT_TRUE(c.attention_window.empty());
  c = config("Qwen2ForCausalLM", "qwen2", 152064, 3584, 18944, 28, 28,
             {{"num_key_value_heads", 4}});
  EXPECT_EQ(parameters(c), 7'615'616'512);  // Qwen2.5-7B
  c = config("Qwen3ForCausalLM", "qwen3", 151936, 1024, 3072, 28, 16,
             {{"num_key_value_heads", 8},
              {"head_dim", 128},
              {"max_window_layers", 28},
              {"sliding_window", nullptr},
              {"use_sliding_window", false},
              {"tie_word_embeddings", true}});
  EXPECT_EQ(parameters(c), 596'049'920);  // Qwen3-0.6B
  c = config("Qwen3ForCausalLM", "qwen3", 151936, 4096, 12288, 36, 32,
             {{"num_key_value_heads", 8}});
  EXPECT_EQ(parameters(c), 8'190'735'360);  // Qwen3-8B
}

TEST(HfCheckpoint, MissingFieldsHaveTransformersDefaults) {
  const auto least = [](const char* architecture) {
    return json{
        {"architectures", {architecture}}, {"vocab_size", 100},       {"hidden_size", 64},
        {"intermediate_size", 10},         {"num_hidden_layers", 30}, {"num_attention_heads", 32}};
  };
  LlamaConfig c = config_of(least("LlamaForCausalLM"));
  EXPECT_EQ(c.model_type, "llama");
  EXPECT_EQ(std::tuple(c.kv_heads, c.head_dim, c.max_positions), std::tuple(32, 2, 2048));
  EXPECT_EQ(std::tuple(c.rms_norm_eps, c.rope_theta, c.tied_embeddings),
            std::tuple(1e-6, 10000, false));
  c = config_of(least("MistralForCausalLM"));
  EXPECT_EQ(std::tuple(c.kv_heads, c.head_dim, c.max_positions), std::tuple(8, 2, 131072));
  EXPECT_EQ(c.attention_window, std::vector<std::int64_t>(30, 4096));
  c = config_of(least("Qwen2ForCausalLM"));
  EXPECT_EQ(std::tuple(c.kv_heads, c.head_dim, c.max_positions), std::tuple(32, 2, 32768));
  EXPECT_TRUE(c.qkv_bias && !c.qk_norm && c.attention_window.empty());
  c = config_of(least("Qwen3ForCausalLM"));
  EXPECT_EQ(std::tuple(c.kv_heads, c.head_dim, c.max_positions), std::tuple(32, 128, 32768));
  EXPECT_TRUE(!c.qkv_bias && c.qk_norm && c.attention_window.empty());

  json windows = least("Qwen3ForCausalLM");
  windows["use_sliding_window"] = true;
  std::vector<std::int64_t> expected(30, 0);
  expected[28] = expected[29] = 4096;
  EXPECT_EQ(config_of(windows).attention_window, expected);
  windows["max_window_layers"] = 29;
  windows["sliding_window"] = 7;
  expected[28] = 0;
  expected[29] = 7;
  EXPECT_EQ(config_of(windows).attention_window, expected);
  windows["layer_types"] = json::array();
  for (int l = 0; l < 30; ++l)
    windows["layer_types"].push_back(l == 3 ? "sliding_attention" : "full_attention");
  expected[29] = 0;
  expected[3] = 7;
  EXPECT_EQ(config_of(windows).attention_window, expected);
  windows["sliding_window"] = nullptr;
  windows.erase("layer_types");
  EXPECT_TRUE(config_of(windows).attention_window.empty());
  json llama = least("LlamaForCausalLM");
  llama["sliding_window"] = 8;  // no field of Llama's
  EXPECT_TRUE(config_of(llama).attention_window.empty());
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
  const auto set_all = [](const json& fields) { return [=](json& c) { c.update(fields); }; };
  const auto erase = [](const char* key) { return [=](json& c) { c.erase(key); }; };
  const auto llama3 = [](const json& factor, const json& low, const json& high,
                         const json& original) {
    return json{{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", low},
                {"high_freq_factor", high},
                {"original_max_position_embeddings", original}};
  };
  const std::vector<Case> cases{
      {"other architecture", set("architectures", {"GPT2LMHeadModel"}),
       "\"GPT2LMHeadModel\" is not supported; supported: LlamaForCausalLM, MistralForCausalLM, "
       "Qwen2ForCausalLM, Qwen3ForCausalLM"},
      {"no architecture", erase("architectures"), "supported: LlamaForCausalLM"},
      {"architectures empty", set("architectures", json::array()), "one architecture"},
      {"architecture a number", set("architectures", {3}), "architecture 3 is not supported"},
      {"architecture an object", set("architectures", json::array({json::object()})),
       "architecture {} is not supported"},
      {"model type of another", set("model_type", "mistral"),
       "does not belong to architecture LlamaForCausalLM"},
      {"model type a list", set("model_type", json::array()), "model_type must be a string"},
      {"other family", set_all({{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"}}),
       "has no tensor model.layers.0.self_attn.q_proj.bias"},
      {"quantized", set("quantization_config", {{"quant_method", "gptq"}}),
       "quantized weights are not supported"},
      {"partial rotary", set("partial_rotary_factor", 0.5), "partial_rotary_factor below 1"},
      {"partial rotary, new spelling", set("rope_parameters", {{"partial_rotary_factor", 0.5}}),
       "partial_rotary_factor below 1"},
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
      {"tiny theta", set("rope_theta", 1e-300), "rope_theta"},
      {"huge theta", set("rope_theta", 1e300), "rope_theta"},
      {"scaling without a type", set("rope_scaling", {{"factor", 4.0}}),
       "rope_scaling: has no rope_type"},
      {"scaling without anything", set("rope_scaling", json::object()), "has no rope_type"},
      {"default with a factor", set("rope_scaling", {{"type", "default"}, {"factor", 4.0}}),
       "rope_scaling: factor has no meaning with rope_type \"default\""},
      {"new spelling, factor without a type", set("rope_parameters", {{"factor", 4.0}}),
       "rope_parameters: factor has no meaning"},
      {"new spelling, llama3 without a type", set("rope_parameters", {{"low_freq_factor", 1.0}}),
       "low_freq_factor has no meaning"},
      {"two thetas",
       set_all({{"rope_theta", 10000},
                {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}}),
       "rope_theta 10000 and 1000000 contradict each other"},
      {"llama3 without its factors", set("rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}),
       "rope_scaling: has no low_freq_factor"},
      {"llama3 without a factor", set("rope_scaling", {{"rope_type", "llama3"}}), "has no factor"},
      {"llama3 upside down", set("rope_scaling", llama3(8, 4, 1, 8192)),
       "high_freq_factor 1 must exceed"},
      {"llama3 with equal factors", set("rope_scaling", llama3(8, 2, 2, 8192)), "must exceed"},
      {"llama3 with a negative factor", set("rope_scaling", llama3(-8, 1, 4, 8192)),
       "factor is -8"},
      {"llama3 with factor 0", set("rope_scaling", llama3(8, 0, 4, 8192)), "low_freq_factor is 0"},
      {"llama3 with text", set("rope_scaling", llama3("8", 1, 4, 8192)), "factor is \"8\""},
      {"llama3 without positions", set("rope_scaling", llama3(8, 1, 4, nullptr)),
       "has no original_max_position_embeddings"},
      {"llama3 with positions 0", set("rope_scaling", llama3(8, 1, 4, 0)),
       "original_max_position_embeddings is 0"},
      {"linear without factor", set("rope_scaling", {{"type", "linear"}}), "has no factor"},
      {"linear that shrinks", set("rope_scaling", {{"type", "linear"}, {"factor", 0.5}}),
       "factor is 0.5"},
      {"rope type null and number", set("rope_scaling", {{"type", nullptr}, {"rope_type", 4}}),
       "rope_type must be a string"},
      {"two rope types", set("rope_scaling", {{"type", "linear"}, {"rope_type", "llama3"}}),
       "contradict each other"},
      {"two ropes",
       set_all({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
                {"rope_parameters", {{"rope_type", "default"}}}}),
       "rope_scaling and rope_parameters contradict"},
      {"old rope scaling", set("rope_scaling", {{"type", "dynamic"}, {"factor", 2}}),
       "rope_scaling of type \"dynamic\" is not supported; supported: default, linear, llama3"},
      {"longrope", set("rope_scaling", {{"rope_type", "longrope"}}), "longrope"},
      {"rope per layer type",
       set("rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}),
       "per kind of layer"},
      {"new rope scaling", set("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}),
       "\"yarn\" is not supported"},
      {"rope scaling a list", set("rope_scaling", json::array()), "rope_scaling must be an object"},
      {"gelu", set("hidden_act", "gelu"), "\"gelu\" is not supported; supported: silu"},
      {"attention bias", set("attention_bias", true), "attention_bias true is not supported"},
      {"mlp bias", set("mlp_bias", true), "mlp_bias true"},
      {"bias a number", set("mlp_bias", 1), "mlp_bias must be true or false"},
      {"fewer layers than weights", set("num_hidden_layers", 2), "holds tensor model.layers.2."},
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

TEST(HfCheckpoint, RefusesHostileWindowsAndFamilies) {
  struct Case {
    const char* model;
    const char* key;
    json value;
    std::string part;
  };
  const std::vector<Case> cases{
      {"tiny_mistral", "sliding_window", 0, "sliding_window is 0, must be from 1"},
      {"tiny_mistral", "sliding_window", -4, "sliding_window is -4"},
      {"tiny_mistral", "sliding_window", std::uint64_t{1} << 63,
       "sliding_window is 9223372036854775808"},
      {"tiny_mistral", "sliding_window", "7", "sliding_window is \"7\", must be an integer"},
      {"tiny_mistral", "sliding_window", 7.5, "must be an integer"},
      {"tiny_mistral", "layer_types", json::array(), "layer_types is not supported for mistral"},
      {"tiny_qwen2", "max_window_layers", -1, "max_window_layers is -1, must be from 0"},
      {"tiny_qwen2", "use_sliding_window", 1, "use_sliding_window must be true or false"},
      {"tiny_qwen2", "layer_types", {"full_attention"}, "layer_types must be a list of 2 names"},
      {"tiny_qwen2", "layer_types", "full_attention", "layer_types must be a list of 2 names"},
      {"tiny_qwen2",
       "layer_types",
       {"full_attention", "chunked_attention"},
       "\"chunked_attention\" is not supported; supported: full_attention, sliding_attention"},
      {"tiny_qwen2", "layer_types", {1, 2}, "layer type 1 is not supported"},
      {"tiny_qwen3", "use_sliding_window", false, "no sliding_window in use"},
      {"tiny_qwen3", "attention_bias", true, "attention_bias true is not supported"},
      {"tiny_qwen3", "head_dim", nullptr, "but config.json asks for"},  // 128 by default
      {"tiny_llama2", "attention_bias", true, "attention_bias true is not supported"},
  };
  for (const Case& c : cases) {
    Model model(c.model);
    model.edit_config([&](json& config) { config[c.key] = c.value; });
    expect_refused(model, c.part, c.key);
  }
  // Biases or norms that the architecture does not have would silently be left out.
  for (const char* name : {"tiny_qwen2", "tiny_qwen3"}) {
    Model model(name);
    model.edit_config([](json& c) {
      c["architectures"] = {"LlamaForCausalLM"};
      c["model_type"] = "llama";
    });
    expect_refused(model, "weights of another model?", name);
  }
  Model model;
  std::ofstream(model.directory() / "config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e999})";
  expect_refused(model, "is not valid JSON", "overflow");
  std::ofstream(model.directory() / "config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": NaN})";
  expect_refused(model, "is not valid JSON", "NaN");
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
  // Two shards and their index, damaged.
  const auto shards = [](const std::function<void(json&, Tensors&, Tensors&)>& change) {
    return [=](Model& m) {
      Tensors a, b;
      json map = json::object();
      for (const auto& [name, tensor] : m.tensors()) {
        const bool first = name < "model.layers.1";
        (first ? a : b)[name] = tensor;
        map[name] = first ? "a.safetensors" : "b.safetensors";
      }
      change(map, a, b);
      fs::remove(m.directory() / "model.safetensors");
      m.write("a.safetensors", a);
      m.write("b.safetensors", b);
      write_json(m.directory() / "model.safetensors.index.json", {{"weight_map", map}});
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
      {"bias of the head", edit([](Tensors& t) { t["lm_head.bias"] = at::zeros({300}); }),
       "holds tensor lm_head.bias"},
      {"bias of the last norm", edit([](Tensors& t) { t["model.norm.bias"] = at::zeros({36}); }),
       "holds tensor model.norm.bias"},
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
      {"NaN head", edit([](Tensors& t) { t["lm_head.weight"][2][0] = NAN; }),
       "rows 1 and 2 of tensor lm_head.weight hold NaN"},
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
       "lists gone.safetensors, which is not in the directory"},
      {"index names the directory", index({{"weight_map", {{q, "."}}}}), "plain name"},
      {"index a list", index(json::array({1})), "weight_map"},
      {"index lists what no file holds", shards([](json& map, Tensors&, Tensors&) {
         map["model.layers.9.mlp.up_proj.weight"] = "b.safetensors";
       }),
       "lists tensor model.layers.9.mlp.up_proj.weight in b.safetensors, which does not hold it"},
      {"index in the wrong file", shards([=](json& map, Tensors&, Tensors&) {
         map[q] = map[q] == "a.safetensors" ? "b.safetensors" : "a.safetensors";
       }),
       "lists tensor " + q + " in "},
      {"tensor in two shards", shards([=](json&, Tensors& a, Tensors& b) {
         (a.contains(q) ? b : a)[q] = at::zeros({36, 36});
       }),
       "tensor " + q + " is in a.safetensors and in b.safetensors"},
      {"tensor in no shard", shards([=](json& map, Tensors& a, Tensors& b) {
         map.erase(q);
         a.erase(q);
         b.erase(q);
       }),
       "has no tensor " + q},
      {"shard of another model", shards([](json&, Tensors&, Tensors& b) {
         for (auto& [name, t] : b) t = at::zeros({2, 2});
       }),
       "shape [2,2], but config.json asks for"},
      {"shard of integers", shards([](json&, Tensors&, Tensors& b) {
         for (auto& [name, t] : b) t = t.to(at::kByte);
       }),
       "no floating-point tensor"},
      {"layer of another model",
       edit([](Tensors& t) { t["model.layers.0.self_attn.q_proj.bias"] = at::zeros({36}); }),
       "holds tensor model.layers.0.self_attn.q_proj.bias"},
  };
  for (const Case& c : cases) {
    Model model;
    c.damage(model);
    expect_refused(model, c.part, c.name);
  }
}

}  // namespace
}  // namespace graphlora
