// Reading PEFT adapters into a model's slices; tests/end_to_end/adapter_test.py reads what PEFT
// wrote.
#include "train/peft_adapter.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

const std::string kLinear = "model.layers.0.self_attn.q_proj";
const std::string kA = "base_model.model." + kLinear + ".lora_A.weight",
                  kB = "base_model.model." + kLinear + ".lora_B.weight";

nlohmann::json plain_config() {
  return {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 3}, {"target_modules", {"q_proj"}}};
}

void write(const std::filesystem::path& directory, const nlohmann::json& config,
           const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  write_json(directory / "adapter_config.json", config);
  write_safetensors(directory / "adapter_model.safetensors", tensors);
}

/// A: 2 x 6, B: 4 x 2.
std::vector<std::pair<std::string, at::Tensor>> plain_tensors(at::ScalarType type = at::kFloat) {
  return {{kA, at::arange(12, at::kFloat).reshape({2, 6}).to(type)},
          {kB, at::arange(8, at::kFloat).reshape({4, 2}).neg().to(type)}};
}

Parameter parameter(const std::string& name, std::vector<std::int64_t> shape,
                    std::optional<ParameterSlice> slice = {}) {
  return {name, at::zeros(shape, at::kDouble).requires_grad_(), Placement::lora_a_row, true, slice};
}

TEST(PeftAdapter, LoadsEveryTypeWholeAndInSlices) {
  for (const auto type : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    const TemporaryDirectory directory;
    write(directory.path(), plain_config(), plain_tensors(type));
    const PeftAdapter adapter(directory.path());
    EXPECT_EQ(adapter.rank(), 2);
    EXPECT_EQ(adapter.scale(), 1.5);
    EXPECT_EQ(adapter.targets(), std::vector<std::string>{"q_proj"});
    EXPECT_EQ(adapter.linears(), std::set<std::string>{kLinear});
    const std::vector<Parameter> whole{parameter(kA, {2, 6}), parameter(kB, {4, 2}),
                                       parameter("lambda_lora", {})};
    adapter.load(whole);
    const auto tensors = plain_tensors(at::kDouble);
    EXPECT_TRUE(at::equal(whole[0].value.detach(), tensors[0].second));
    EXPECT_TRUE(at::equal(whole[1].value.detach(), tensors[1].second));
    EXPECT_EQ(whole[2].value.item<double>(), 0);
    const std::vector<Parameter> part{parameter(kA, {2, 4}, ParameterSlice{1, 2, 6}),
                                      parameter(kB, {1, 2}, ParameterSlice{0, 3, 4})};
    adapter.load(part);
    EXPECT_TRUE(at::equal(part[0].value.detach(), tensors[0].second.narrow(1, 2, 4)));
    EXPECT_TRUE(at::equal(part[1].value.detach(), tensors[1].second.narrow(0, 3, 1)));
  }
}

template <class E, class Body>
void expect_error(const std::string& text, const Body& body) {
  try {
    body();
    FAIL() << "no error; expected " << text;
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(PeftAdapter, AnotherBaseIsRefused) {
  const TemporaryDirectory directory;
  write(directory.path(), plain_config(), plain_tensors());
  const PeftAdapter adapter(directory.path());
  const auto load = [&](std::vector<Parameter> parameters) {
    return [&adapter, parameters] { adapter.load(parameters); };
  };
  expect_error<ShapeError>("has shape [2,6], the model asks for [2,7]",
                           load({parameter(kA, {2, 7}), parameter(kB, {4, 2})}));
  expect_error<ShapeError>(
      "the model asks for [2,8]",
      load({parameter(kA, {2, 6}, ParameterSlice{1, 0, 8}), parameter(kB, {4, 2})}));
  expect_error<DataError>(
      "has no tensor base_model.model.model.layers.1",
      load({parameter("base_model.model.model.layers.1.x.lora_A.weight", {1})}));
  expect_error<DataError>(kB + " has no place in the model", load({parameter(kA, {2, 6})}));
}

TEST(PeftAdapter, DamageIsRefused) {
  const auto refuse = [](const std::string& text, const nlohmann::json& changes,
                         std::vector<std::pair<std::string, at::Tensor>> tensors) {
    const TemporaryDirectory directory;
    nlohmann::json config = plain_config();
    if (!changes.is_null()) config.update(changes);
    write(directory.path(), config, tensors);
    expect_error<DataError>(text, [&] {
      const PeftAdapter adapter(directory.path());
      adapter.load({parameter(kA, {2, 6}), parameter(kB, {4, 2})});
    });
  };
  auto tensors = plain_tensors();
  tensors.pop_back();
  refuse("but no " + kB, {}, tensors);
  refuse("holds no tensors", {}, {});
  tensors = plain_tensors();
  tensors[1].second[0][0] = std::nan("");
  refuse("holds NaN", {}, tensors);
  tensors = plain_tensors();
  tensors.emplace_back("base_model.model.lm_head.weight", at::zeros({2}));
  refuse("lm_head.weight is not A or B", {}, tensors);
  refuse("names no linear", {{"target_modules", nlohmann::json::array()}}, plain_tensors());
  refuse("is damaged", {{"target_modules", nullptr}, {"r", "x"}}, plain_tensors());
  refuse("r must be from 1 to", {{"r", 0}}, plain_tensors());
  for (const double alpha : {-1.0, 2e6})
    refuse("lora_alpha from 0 to", {{"lora_alpha", alpha}}, plain_tensors());
  refuse("lora_alpha to 6", {{"use_rslora", true}, {"r", 4}}, plain_tensors());
  for (const char* key : {"use_dora", "lora_bias", "fan_in_fan_out"})
    refuse(std::string(key) + " is true", {{key, true}}, plain_tensors());
  // What PEFT writes where nothing was asked for.
  const TemporaryDirectory directory;
  nlohmann::json config = plain_config();
  config.update({{"modules_to_save", nullptr},
                 {"rank_pattern", nlohmann::json::object()},
                 {"use_dora", false},
                 {"bias", "none"},
                 {"use_qalora", false},
                 {"init_lora_weights", true},
                 {"task_type", "CAUSAL_LM"}});
  write(directory.path(), config, plain_tensors());
  EXPECT_NO_THROW(PeftAdapter(directory.path()));
}

}  // namespace
}  // namespace graphlora
