// Turns tokens back into text: the `decoder` of a tokenizer.json.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace graphlora {

/// ByteLevel, ByteFallback, Fuse, Metaspace, Replace (of a string) and Strip, alone or as a
/// Sequence; without one, tokens are joined by spaces (as in HF).
class TokenDecoder {
 public:
  /// Throws DataError, prefixed by `where`, for what is unknown or unsupported.
  TokenDecoder(const nlohmann::json& json, const std::string& where);
  std::string decode(std::vector<std::string> tokens) const;

 private:
  struct Step {
    enum class Kind { byte_level, byte_fallback, fuse, replace, strip } kind = Kind::fuse;
    std::string pattern, content;
    bool drop_first = false;          // replace: by nothing in the first token
    std::size_t start = 0, stop = 0;  // strip: at most so many
  };
  void add(const nlohmann::json& json);
  std::string where_;
  std::vector<Step> steps_;
  bool spaces_ = false;
};

}  // namespace graphlora
