// Strings and ids of HF `tokenizers`, as tests/golden/make_tokenizer_golden.py and
// make_sentencepiece_golden.py write them.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.hpp"

namespace graphlora {

class TokenizerGolden {
 public:
  explicit TokenizerGolden(const std::filesystem::path& path)
      : reader_(path), texts_(strings("text", "lengths")) {}
  const std::vector<std::string>& texts() const { return texts_; }
  /// {variant: merge patch of the tokenizer.json}
  std::map<std::string, nlohmann::json> variants() const {
    std::map<std::string, nlohmann::json> result;
    for (const auto& [name, patch] : reader_.metadata()) {
      if (name != "tokenizers") result[name] = nlohmann::json::parse(patch);
    }
    return result;
  }
  std::vector<std::vector<std::int32_t>> ids(const std::string& variant) const {
    std::vector<std::vector<std::int32_t>> result;
    const std::span<const std::uint16_t> all = numbers(variant + ".ids");
    std::size_t begin = 0;
    for (const std::uint16_t length : numbers(variant + ".lengths")) {
      const auto row = all.subspan(begin, length);
      result.emplace_back(row.begin(), row.end());
      begin += length;
    }
    return result;
  }
  std::vector<std::string> decoded(const std::string& variant) const {
    return strings(variant + ".decoded", variant + ".decoded_lengths");
  }

 private:
  std::vector<std::string> strings(const std::string& text, const std::string& lengths) const {
    const at::Tensor tensor = reader_.tensor(text);
    const auto* bytes = reinterpret_cast<const char*>(tensor.data_ptr<std::uint8_t>());
    std::vector<std::string> result;
    for (const std::uint16_t length : numbers(lengths)) {
      result.emplace_back(bytes, length);
      bytes += length;
    }
    return result;
  }
  std::span<const std::uint16_t> numbers(const std::string& name) const {
    const at::Tensor tensor = reader_.tensor(name);
    return {static_cast<const std::uint16_t*>(tensor.data_ptr()),
            static_cast<std::size_t>(tensor.numel())};
  }
  SafetensorsReader reader_;
  std::vector<std::string> texts_;
};

}  // namespace graphlora
