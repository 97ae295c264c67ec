// Prompts: template files with {history}, {user}, {title}, {item}; anchors are recorded as they are
// built.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/prompt_template.hpp"
#include "data/title_tokens.hpp"
#include "data/tokenizer.hpp"

namespace graphlora {

struct PromptConfig {
  std::string templates = {};  ///< file with the templates; empty: the built-in ones
  std::string template_text =
      {};                     ///< the templates themselves (a checkpoint's), in place of the file
  std::int64_t history = 10;  ///< liked titles at most
  /// The oldest history titles are dropped first, never the question.
  std::int64_t max_tokens = 512;
  std::string yes = " Yes", no = " No";
};

/// Stands for a user that the dataset doesn't have: E and z are 0, as for unknown users in
/// training.
inline constexpr std::int64_t kUnknownNode = -1;

/// A user and an item that need not be a row of the dataset.
struct Question {
  std::int64_t user_node = kUnknownNode;
  std::int64_t item = 0;                       ///< 0…V-1
  std::span<const std::int64_t> history = {};  ///< liked items, oldest first; the last ones count
};

/// An example's tokens. Token −1 stands at the anchors.
struct Prompt {
  struct Anchor {
    std::int32_t position;
    std::int64_t node;
  };
  std::int64_t row = 0;  ///< −1: of a question, no row of the dataset
  std::int32_t template_index = 0;
  std::vector<std::int32_t> tokens;
  /// In order of position: the user's and the item's (as the template has them).
  std::vector<Anchor> anchors;
  /// Position of the first of {title} and {item}: before it, examples of one user with the same
  /// history and template are equal, unless titles were dropped for max_tokens.
  std::int32_t private_from = 0;
  float label = 0;
};

class PromptBuilder {
 public:
  /// Throws ConfigError (template errors with FILE:LINE, words that are no single token), keeps
  /// references.
  PromptBuilder(const Dataset& dataset, const Tokenizer& tokenizer, const PromptConfig& config)
      : PromptBuilder(dataset, tokenizer, config, TitleTokens(dataset, tokenizer)) {}
  /// The same with the titles of all items as they were tokenized elsewhere.
  PromptBuilder(const Dataset& dataset, const Tokenizer& tokenizer, const PromptConfig& config,
                TitleTokens titles);

  const TitleTokens& titles() const { return titles_; }
  std::int32_t templates() const { return static_cast<std::int32_t>(templates_.size()); }
  /// Template of a training example, drawn by weight from (seed, epoch, user, history).
  std::int32_t draw_template(std::int64_t row, std::uint64_t seed, std::int64_t epoch) const;
  /// Template 0 is the evaluation's.
  Prompt build(std::int64_t row, std::int32_t template_index) const;
  /// Number of tokens of build(row, template_index), and its `private_from`.
  struct Extent {
    std::int64_t tokens, private_from;
  };
  /// Without building it.
  Extent extent(std::int64_t row, std::int32_t template_index) const;
  std::int64_t length(std::int64_t row, std::int32_t template_index) const {
    return extent(row, template_index).tokens;
  }
  /// The same for questions, whose label is 0.
  Prompt build(const Question& question, std::int32_t template_index) const;
  Extent extent(const Question& question, std::int32_t template_index) const;
  /// Hash of the history an example has (at most PromptConfig::history titles, before any are
  /// dropped for max_tokens); equal for equal histories.
  std::uint64_t history_hash(std::int64_t row) const;

  std::int32_t yes_token() const { return yes_token_; }
  std::int32_t no_token() const { return no_token_; }
  /// Readable text of a prompt, anchors shown as <user:ID>, <item:ID> (source ids), an unknown
  /// user's as <user>.
  std::string text(const Prompt& prompt) const;
  /// The templates' text as read, for the checkpoint's manifest.
  const std::string& source() const { return source_; }

 private:
  using Kind = PromptTemplate::Piece::Kind;
  struct Piece {
    Kind kind;
    std::vector<std::int32_t> tokens;  // of a literal
  };
  struct Wording {
    std::vector<Piece> pieces;
    std::int64_t fixed_tokens = 0;   // all but titles and history
    std::int64_t prefix_tokens = 0;  // those before the first title or item
    bool has_title = false, has_history = false, history_in_prefix = false;
  };
  struct Template {
    double weight = 1;
    Wording with_history, without;
  };
  /// What of the history fits, and how long the prompt gets.
  struct Layout {
    const Wording* wording;
    std::span<const std::int64_t> history;
    std::int64_t tokens;
  };
  Wording tokenize(const std::vector<PromptTemplate::Piece>& pieces) const;
  void check_lengths() const;
  /// The one token that `word` is behind every template's end.
  std::int32_t answer_token(const std::string& word, const char* option,
                            const std::vector<PromptTemplate>& templates) const;
  std::span<const std::int64_t> history(std::int64_t row) const;
  Question question_of(std::int64_t row) const;
  Layout layout(const Question& question, std::int32_t template_index) const;

  const Dataset& dataset_;
  const Tokenizer& tokenizer_;
  PromptConfig config_;
  TitleTokens titles_;
  std::vector<Template> templates_;
  std::string source_;
  std::int32_t yes_token_ = -1, no_token_ = -1;
};

}  // namespace graphlora
