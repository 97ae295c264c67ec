// Splits text into the words that BPE sees: the `pre_tokenizer` of a tokenizer.json.
#pragma once
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.hpp"

namespace graphlora {

/// Digits, Split and ByteLevel, alone or as a Sequence that ends in its only ByteLevel.
class PreTokenizer {
 public:
  struct Workspace {
    Regex::Workspace regex;
    std::vector<std::string_view> words, next;
    std::vector<std::pair<std::size_t, std::size_t>> matches;
    std::deque<std::string> prefixed;
  };

  /// Throws DataError, prefixed by `where`, for what is unknown or unsupported.
  PreTokenizer(const nlohmann::json& json, const std::string& where);

  /// Words of a text (well-formed UTF-8) in workspace.words, until the next call. Thread-safe with
  /// one Workspace a thread.
  void split(std::string_view text, Workspace& workspace) const;

 private:
  /// What becomes of the matches of a pattern (HF's SplitDelimiterBehavior).
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  struct Step {
    enum class Kind { digits, literal, regex, none } kind = Kind::none;
    Behavior behavior = Behavior::isolated;
    bool invert = false;
    bool add_prefix_space = false;
    std::string literal;
    std::optional<Regex> regex;
  };
  void add(const nlohmann::json& json, const std::string& where);
  static void find_matches(const Step& step, std::string_view text, Workspace& workspace);
  static void apply(const Step& step, std::string_view text, Workspace& workspace);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace graphlora
