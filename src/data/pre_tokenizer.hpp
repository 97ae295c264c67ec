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

/// Digits, Split, Metaspace and ByteLevel, alone or as a Sequence; ByteLevel at its end only. None:
/// the text is one word.
class PreTokenizer {
 public:
  struct Workspace {
    Regex::Workspace regex;
    std::vector<std::string_view> words, next;
    std::vector<std::pair<std::size_t, std::size_t>> matches;
    std::deque<std::string> rewritten;
  };

  /// Throws DataError, prefixed by `where`, for what is unknown or unsupported.
  PreTokenizer(const nlohmann::json& json, const std::string& where);

  /// Whether words are bytes, for the byte-level alphabet; else they are characters.
  bool byte_level() const { return byte_level_; }

  /// Words of a text (well-formed UTF-8) in workspace.words, until the next call. `first`: the text
  /// is what the whole string begins with (Metaspace may ask). Thread-safe with one Workspace a
  /// thread.
  void split(std::string_view text, bool first, Workspace& workspace) const;

 private:
  /// What becomes of the matches of a pattern (HF's SplitDelimiterBehavior).
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  struct Step {
    enum class Kind { digits, literal, regex, none } kind = Kind::none;
    Behavior behavior = Behavior::isolated;
    bool invert = false;
    bool add_prefix_space = false;
    std::string literal;
    std::string space;  // Metaspace: stands for a space; else empty
    enum class Prepend { always, first, never } prepend = Prepend::never;
    std::optional<Regex> regex;
  };
  void add(const nlohmann::json& json, const std::string& where);
  static void read_metaspace(const nlohmann::json& json, const std::string& where, Step& step);
  static void find_matches(const Step& step, std::string_view text, Workspace& workspace);
  static std::string_view rewrite(const Step& step, std::string_view word, bool first,
                                  Workspace& workspace);
  static void apply(const Step& step, std::string_view text, Workspace& workspace);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace graphlora
