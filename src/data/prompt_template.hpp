// The template file format (configs/prompts/default.txt explains it).
#pragma once
#include <string>
#include <vector>

namespace graphlora {

struct PromptTemplate {
  struct Piece {
    enum class Kind { literal, history, user, title, item } kind;
    std::string text;  ///< of a literal, never empty
  };
  double weight = 1;
  std::vector<Piece> pieces;
  std::vector<Piece> empty_history;  ///< instead of `pieces` where there is no history to show
  std::string where;                 ///< FILE:LINE of its section
};

/// The text of configs/prompts/default.txt.
extern const char* const kDefaultTemplates;

/// Parses a template file's text. Throws ConfigError that starts with FILE:LINE.
std::vector<PromptTemplate> parse_templates(const std::string& text, const std::string& file);

}  // namespace graphlora
