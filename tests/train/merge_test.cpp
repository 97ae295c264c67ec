// Merging against a computation in fp64, and within a few MiB; tests/end_to_end/adapter_test.py
// compares with PEFT.
#include "train/merge.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "model/peak_memory.hpp"
#include "support/rank_main.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kHidden = 64, kColumns = 96, kRank = 3, kVocabulary = 50;

/// A Llama of one layer in two files, adapted at gate_proj, and its adapter beside it.
struct Files {
  explicit Files(std::int64_t columns, at::ScalarType type) {
    at::manual_seed(4);
    const auto random = [&](std::vector<std::int64_t> shape) { return at::randn(shape).to(type); };
    const std::string layer = "model.layers.0.";
    first = {{layer + "self_attn.q_proj.weight", random({kHidden, kHidden})},
             {layer + "self_attn.k_proj.weight", random({kHidden, kHidden})},
             {layer + "self_attn.v_proj.weight", random({kHidden, kHidden})},
             {layer + "self_attn.o_proj.weight", random({kHidden, kHidden})},
             {"model.embed_tokens.weight", random({kVocabulary, kHidden})}};
    second = {{layer + "mlp.gate_proj.weight", random({columns, kHidden})},
              {layer + "mlp.up_proj.weight", random({columns, kHidden})},
              {layer + "mlp.down_proj.weight", random({kHidden, columns})},
              {layer + "input_layernorm.weight", random({kHidden})},
              {layer + "post_attention_layernorm.weight", random({kHidden})},
              {"model.norm.weight", random({kHidden})}};
    make_directories(base());
    nlohmann::json map;
    for (const auto& [tensors, name] :
         {std::pair(&first, "a.safetensors"), {&second, "b.safetensors"}}) {
      write_safetensors(base() / name, *tensors, {{"format", "pt"}});
      for (const auto& [tensor, value] : *tensors) map[tensor] = name;
    }
    write_json(base() / "model.safetensors.index.json", {{"weight_map", map}});
    write_json(base() / "config.json", {{"architectures", {"LlamaForCausalLM"}},
                                        {"model_type", "llama"},
                                        {"vocab_size", kVocabulary},
                                        {"hidden_size", kHidden},
                                        {"intermediate_size", columns},
                                        {"num_hidden_layers", 1},
                                        {"num_attention_heads", 4},
                                        {"num_key_value_heads", 4},
                                        {"rms_norm_eps", 1e-5},
                                        {"max_position_embeddings", 128},
                                        {"rope_theta", 1e4},
                                        {"hidden_act", "silu"},
                                        {"tie_word_embeddings", true}});
    write_file(base() / "pytorch_model.bin", "not copied");
    a = at::randn({kRank, kHidden});
    b = at::randn({columns, kRank});
    make_directories(adapter());
    write_json(adapter() / "adapter_config.json", {{"peft_type", "LORA"},
                                                   {"r", kRank},
                                                   {"lora_alpha", 5},
                                                   {"target_modules", {"gate_proj"}}});
    const std::string prefix = "base_model.model." + layer + "mlp.gate_proj.";
    write_safetensors(adapter() / "adapter_model.safetensors",
                      {{prefix + "lora_A.weight", a}, {prefix + "lora_B.weight", b}});
  }
  std::filesystem::path base() const { return directory.path() / "base"; }
  std::filesystem::path adapter() const { return directory.path() / "adapter"; }
  std::filesystem::path merged() const { return directory.path() / "merged"; }
  void merge() const {
    make_directories(merged());
    write_merged(PeftAdapter(adapter()), HfCheckpoint(base()), merged(), [](std::uint64_t) {});
  }

  TemporaryDirectory directory;
  std::vector<std::pair<std::string, at::Tensor>> first, second;
  at::Tensor a, b;
};

TEST(Merge, IsTheSumRoundedOnce) {
  for (const auto type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    const Files files(kColumns, type);
    files.merge();
    const SafetensorsReader first(files.merged() / "a.safetensors"),
        second(files.merged() / "b.safetensors");
    for (const auto& [name, value] : files.first)
      EXPECT_TRUE(at::equal(first.tensor(name), value)) << name;
    const at::Tensor product = files.b.to(at::kDouble).mm(files.a.to(at::kDouble)) * (5.0 / kRank);
    for (const auto& [name, value] : files.second) {
      const at::Tensor written = second.tensor(name);
      EXPECT_EQ(written.scalar_type(), type);
      if (name != "model.layers.0.mlp.gate_proj.weight") {
        EXPECT_TRUE(at::equal(written, value)) << name;
        continue;
      }
      const at::Tensor exact = value.to(at::kDouble) + product;
      // Half a unit in the last place of the type, and what fp32 arithmetic adds to it.
      const double unit = type == at::kBFloat16 ? 0x1p-8 : type == at::kHalf ? 0x1p-11 : 0x1p-24;
      const at::Tensor bound = exact.abs() * unit + 32 * 0x1p-24;
      EXPECT_TRUE(((written.to(at::kDouble) - exact).abs() <= bound).all().item<bool>());
      EXPECT_FALSE(at::equal(written, value));
    }
    EXPECT_EQ(first.metadata().at("format"), "pt");
    EXPECT_EQ(read_file(files.merged() / "model.safetensors.index.json"),
              read_file(files.base() / "model.safetensors.index.json"));
    EXPECT_FALSE(std::filesystem::exists(files.merged() / "pytorch_model.bin"));
  }
}

TEST(Merge, OverflowIsRefused) {
  const Files files(kColumns, at::kHalf);
  const std::string prefix = "base_model.model.model.layers.0.mlp.gate_proj.";
  write_safetensors(
      files.adapter() / "adapter_model.safetensors",
      {{prefix + "lora_A.weight", files.a * 1e5}, {prefix + "lora_B.weight", files.b}});
  EXPECT_THROW(files.merge(), DataError);
}

/// 192 MB of weights go through, a few MiB at a time.
TEST(Merge, HoldsAFewMebibytes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "a sanitizer's allocator keeps what is freed";
#endif
  if (test::world().size() > 1) GTEST_SKIP() << "one process is enough for a local measurement";
  const Files files(std::int64_t{500000}, at::kBFloat16);
  const PeftAdapter adapter(files.adapter());
  const HfCheckpoint base(files.base());
  make_directories(files.merged());
  // The maps' pages that checking has touched.
  for (const SafetensorsReader& file : base.files()) file.release();
  const std::size_t before = testing::reset_peak_memory();
  write_merged(adapter, base, files.merged(), [](std::uint64_t) {});
  const std::size_t growth = testing::peak_memory() - before;
  RecordProperty("growth_mebibytes", static_cast<int>(growth >> 20));
  std::cout << "growth " << (growth >> 20) << " MiB for " << (merged_bytes(base) >> 20) << " MiB\n";
  EXPECT_LT(growth, std::size_t{40} << 20);
}

}  // namespace
}  // namespace graphlora
