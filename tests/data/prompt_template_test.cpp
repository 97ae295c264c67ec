#include "data/prompt_template.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"

namespace graphlora {
namespace {

using Kind = PromptTemplate::Piece::Kind;

/// Pieces as text, placeholders as one letter in angle brackets.
std::string show(const std::vector<PromptTemplate::Piece>& pieces) {
  std::string text;
  for (const auto& [kind, literal] : pieces) {
    switch (kind) {
      case Kind::literal:
        text += literal;
        break;
      case Kind::history:
        text += "<h>";
        break;
      case Kind::user:
        text += "<u>";
        break;
      case Kind::title:
        text += "<t>";
        break;
      case Kind::item:
        text += "<i>";
        break;
    }
  }
  return text;
}

TEST(PromptTemplate, BuiltInOnesAreTheFileThatUsersCopy) {
  EXPECT_EQ(read_file("configs/prompts/default.txt"), kDefaultTemplates);
  const auto templates = parse_templates(kDefaultTemplates, "default.txt");
  EXPECT_GE(templates.size(), 2U);
  for (const PromptTemplate& t : templates) {
    EXPECT_NE(show(t.pieces).find("<h>"), std::string::npos);
    EXPECT_NE(show(t.pieces).find("<t>"), std::string::npos);
  }
}

TEST(PromptTemplate, ReadsSectionsWeightsAndBraces) {
  const auto templates = parse_templates(
      "\xEF\xBB\xBF; a comment\r\n\r\n[template weight=2.5]\r\n\r\n{history} {{x}} "
      "[INST]\r\n\r\n{user}{item}\r\n\r\n"
      "[empty history]\nnew: {user} {title} {item}\n[template]\n{item}{user}!",
      "f.txt");
  ASSERT_EQ(templates.size(), 2U);
  EXPECT_EQ(templates[0].weight, 2.5);
  EXPECT_EQ(templates[0].where, "f.txt:3");
  EXPECT_EQ(show(templates[0].pieces), "<h> {x} [INST]\n\n<u><i>");
  EXPECT_EQ(show(templates[0].empty_history), "new: <u> <t> <i>");
  EXPECT_EQ(templates[1].weight, 1);
  EXPECT_EQ(show(templates[1].pieces), "<i><u>!");
  EXPECT_EQ(show(templates[1].empty_history), "<i><u>!");
}

TEST(PromptTemplate, RefusesHostileFiles) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"empty", "", "f.txt:1: no [template]"},
      {"comments only", "; x\n; y\n", "f.txt:2: no [template]"},
      {"text in front", "hello\n[template]\n{user}{item}",
       "f.txt:1: expected [template], found \"hello\""},
      {"misspelt section", "[templates]\n{user}{item}", "f.txt:1: expected [template]"},
      {"negative weight", "[template weight=-1]\n{user}{item}", "f.txt:1: expected [template]"},
      {"weight nan", "[template weight=nan]\n{user}{item}", "f.txt:1: expected [template]"},
      {"weight inf", "[template weight=inf]\n{user}{item}", "f.txt:1: expected [template]"},
      {"weight huge", "[template weight=1e300]\n{user}{item}", "f.txt:1: expected [template]"},
      {"weight text", "[template weight=two]\n{user}{item}", "f.txt:1: expected [template]"},
      {"all weights 0", "[template weight=0]\n{user}{item}",
       "f.txt:1: the weights of all templates are 0"},
      {"no text", "[template]\n\n\n", "f.txt:1: the template has no text"},
      {"no text, then another", "[template]\n[template]\n{user}{item}",
       "f.txt:1: the template has no text"},
      {"unknown placeholder", "[template]\nx\n{user} {movie}\n{item}",
       "f.txt:3: unknown placeholder \"{movie}\""},
      {"unclosed placeholder", "[template]\n{user} {item", "f.txt:2: unknown placeholder \"{\""},
      {"stray brace", "[template]\n{user} {item} }", "f.txt:2: unknown placeholder \"}\""},
      {"capital placeholder", "[template]\n{User} {item}",
       "f.txt:2: unknown placeholder \"{User}\""},
      {"no user", "[template]\n{item}",
       "f.txt:2: {user} must stand exactly once in a template, found 0 times"},
      {"no item", "[template]\n{user}", "f.txt:2: {item} must stand exactly once"},
      {"two items", "[template]\n{user}{item}{item}",
       "f.txt:2: {item} must stand exactly once in a template, found 2"},
      {"two titles", "[template]\n{user}{item}{title}{title}",
       "f.txt:2: {title} must stand at most once"},
      {"two histories", "[template]\n{user}{item}{history}{history}",
       "f.txt:2: {history} must stand at most once"},
      {"no wording for empty history", "[template]\n{user}{item}{history}",
       "f.txt:1: the template uses {history}"},
      {"history in that wording",
       "[template]\n{user}{item}{history}\n[empty history]\n{user}{item}{history}",
       "f.txt:4: {history} in the wording"},
      {"no user in that wording", "[template]\n{user}{item}{history}\n[empty history]\n{item}",
       "f.txt:4: {user}"},
      {"empty wording", "[template]\n{user}{item}{history}\n[empty history]\n",
       "f.txt:1: the template has no text"},
      {"wording first", "[empty history]\n{user}{item}", "f.txt:1: [empty history] must follow"},
      {"wording twice",
       "[template]\n{user}{item}\n[empty history]\n{user}{item}\n[empty history]\n{user}{item}",
       "f.txt:5: [empty history] must follow"},
      {"misspelt wording", "[template]\n{user}{item}\n[empty]\n{user}{item}",
       "f.txt:3: expected [empty history]"},
      {"not UTF-8", "[template]\n{user}{item}\n\xFF", "f.txt:3: not UTF-8"},
      {"NUL bytes", std::string(100, '\0'), "f.txt:1: expected [template]"},
  };
  for (const auto& [name, text, message] : cases) {
    try {
      parse_templates(text, "f.txt");
      ADD_FAILURE() << name << ": accepted";
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()).substr(0, message.size()), message) << name;
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << name;
    }
  }
}

}  // namespace
}  // namespace graphlora
