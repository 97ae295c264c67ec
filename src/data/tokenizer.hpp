// Byte-level BPE from an HF tokenizer.json, equal to HF `tokenizers` on the same file.
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
  /// Reads DIR/tokenizer.json. Throws DataError naming what is missing or unsupported (by type).
  explicit Tokenizer(const std::filesystem::path& model_directory);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  /// Ids of `text` (UTF-8) without the post-processor's special tokens. Thread-safe. Throws
  /// DataError on invalid UTF-8.
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;

  /// The BOS id, if and only if the post-processor puts one in front.
  std::optional<std::int32_t> bos() const;
  std::int64_t vocabulary_size() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace graphlora
