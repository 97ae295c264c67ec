// Byte-pair encoding as a model directory describes it, equal to HF `tokenizers`: byte-level or in
// SentencePiece's manner, from tokenizer.json, or from tokenizer.model where that is all there is.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace graphlora {

class Tokenizer {
 public:
  /// Reads DIR/tokenizer.json, else DIR/tokenizer.model (see data/sentencepiece.hpp). Throws
  /// DataError naming what is missing or unsupported (by type).
  explicit Tokenizer(const std::filesystem::path& model_directory);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  /// Ids of `text` (UTF-8) without the post-processor's special tokens. Thread-safe. Throws
  /// DataError on invalid UTF-8.
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;

  /// The BOS id, if and only if the post-processor (of a tokenizer.model: tokenizer_config.json's
  /// add_bos_token) puts one in front.
  std::optional<std::int32_t> bos() const;
  std::int64_t vocabulary_size() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace graphlora
