// Prompts: template files with {history}, {user}, {title}, {item}; anchors are recorded as they are
// built.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/dataset.hpp"
#include "data/tokenizer.hpp"

namespace graphlora {

struct PromptConfig {
  std::string templates;      ///< file with the templates; empty: the built-in ones
  std::int64_t history = 10;  ///< liked titles at most
  std::int64_t max_tokens =
      512;  ///< the oldest history titles are dropped first, never the question
  std::string yes = " Yes", no = " No";
};

/// An example's tokens. Token −1 stands at the anchors.
struct Prompt {
  struct Anchor {
    std::int32_t position;
    std::int64_t node;
  };
  std::int64_t row = 0;
  std::int32_t template_index = 0;
  std::vector<std::int32_t> tokens;
  std::vector<Anchor>
      anchors;  ///< in order of position: the user's and the item's (as the template has them)
  std::int32_t private_from =
      0;  ///< position of the first of {title} and {item}: before it, examples of one user
          ///< with the same history and template are equal
  float label = 0;
};

class PromptBuilder {
 public:
  /// Throws ConfigError (template errors with FILE:LINE, words that are no single token), keeps
  /// references.
  PromptBuilder(const Dataset& dataset, const Tokenizer& tokenizer, const PromptConfig& config);

  std::int32_t templates() const { return static_cast<std::int32_t>(templates_.size()); }
  /// Template of a training example, drawn by weight from (seed, epoch, user, history).
  std::int32_t draw_template(std::int64_t row, std::uint64_t seed, std::int64_t epoch) const;
  /// Template 0 is the evaluation's.
  Prompt build(std::int64_t row, std::int32_t template_index) const;
  /// Number of tokens of build(row, template_index), without building it.
  std::int64_t length(std::int64_t row, std::int32_t template_index) const;
  /// Hash of the history an example shows; equal for equal histories (of one user).
  std::uint64_t history_hash(std::int64_t row) const;

  std::int32_t yes_token() const { return yes_token_; }
  std::int32_t no_token() const { return no_token_; }
  /// Readable text of a prompt, anchors shown as <user:ID>, <item:ID> (source ids).
  std::string text(const Prompt& prompt) const;
  /// The templates' text as read, for the checkpoint's manifest.
  const std::string& source() const { return source_; }

 private:
  struct Piece {
    enum class Kind { literal, history, user, title, item } kind;
    std::vector<std::int32_t> tokens;  // of a literal
  };
  struct Template {
    double weight = 1;
    std::vector<Piece> pieces;
    std::vector<std::int32_t> empty_history;
  };
  const Dataset& dataset_;
  const Tokenizer& tokenizer_;
  PromptConfig config_;
  std::vector<Template> templates_;
  std::string source_;
  std::int32_t yes_token_ = -1, no_token_ = -1;
};

}  // namespace graphlora
