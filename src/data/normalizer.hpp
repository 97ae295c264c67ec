// Rewrites text before it is split: the `normalizer` of a tokenizer.json.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.hpp"
#include "data/unicode.hpp"

namespace graphlora {

/// NFC, NFD, NFKC, NFKD, Prepend and Replace, alone or as a Sequence.
class Normalizer {
 public:
  /// Throws DataError, prefixed by `where`, for what is unknown or unsupported.
  Normalizer(const nlohmann::json& json, const std::string& where);

  /// Whether it changes nothing.
  bool empty() const { return steps_.empty(); }
  /// `text` (well-formed UTF-8) rewritten. Throws DataError if it grows out of all proportion.
  std::string apply(std::string_view text, Regex::Workspace& workspace) const;

 private:
  struct Step {
    enum class Kind { form, prepend, literal, regex } kind = Kind::form;
    NormalForm form = NormalForm::nfc;
    std::string pattern, content;
    std::optional<Regex> regex;
  };
  void add(const nlohmann::json& json);

  std::string where_;
  std::vector<Step> steps_;
};

/// `text` with every occurrence of `pattern` (not empty; leftmost first) replaced. Throws
/// DataError, prefixed by `where`, if the result exceeds `limit` bytes.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content,
                        std::size_t limit, const std::string& where);

/// How long a text of `bytes` may become: no real tokenizer comes near.
constexpr std::size_t growth_limit(std::size_t bytes) { return 64 * bytes + (1 << 16); }

}  // namespace graphlora
