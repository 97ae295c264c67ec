#include "data/pre_tokenizer.hpp"

#include <fmt/format.h>

#include <map>

#include "core/error.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const nlohmann::json& json, const std::string& where) {
  for (const nlohmann::json* part : flatten(json, "pretokenizers", where)) {
    add(*part, where);
  }
}

void PreTokenizer::add(const nlohmann::json& json, const std::string& where) {
  const std::string type = json.at("type");
  if (byte_level_) {
    throw DataError("{}: unsupported pre_tokenizer {} behind ByteLevel", where, shown(type));
  }
  Step step;
  if (type == "Digits") {
    step.kind = Step::Kind::digits;
    step.behavior =
        json.at("individual_digits").get<bool>() ? Behavior::isolated : Behavior::contiguous;
  } else if (type == "Split") {
    static const std::map<std::string, Behavior> kBehaviors = {
        {"Removed", Behavior::removed},
        {"Isolated", Behavior::isolated},
        {"MergedWithPrevious", Behavior::merged_with_previous},
        {"MergedWithNext", Behavior::merged_with_next},
        {"Contiguous", Behavior::contiguous}};
    const auto& pattern = json.at("pattern");
    if (pattern.contains("Regex")) {
      step.kind = Step::Kind::regex;
      step.regex.emplace(pattern.at("Regex").get<std::string>(), where);
    } else {
      step.kind = Step::Kind::literal;
      step.literal = pattern.at("String");
      if (step.literal.empty()) {
        throw DataError("{}: pre_tokenizer Split with an empty string", where);
      }
    }
    const std::string behavior = json.at("behavior");
    const auto known = kBehaviors.find(behavior);
    if (known == kBehaviors.end()) {
      throw DataError("{}: unknown behavior {} of pre_tokenizer Split", where, shown(behavior));
    }
    step.behavior = known->second;
    step.invert = json.value("invert", false);
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    step.add_prefix_space = json.at("add_prefix_space");
    if (json.value("use_regex", true)) {
      step.kind = Step::Kind::regex;
      step.regex.emplace(kByteLevelPattern, where);
    }
  } else if (type == "Metaspace") {
    read_metaspace(json, where, step);
  } else {
    throw DataError(
        "{}: unsupported pre_tokenizer type {} (supported: ByteLevel, Digits, Metaspace, Split, "
        "Sequence)",
        where, shown(type));
  }
  steps_.push_back(std::move(step));
}

void PreTokenizer::read_metaspace(const nlohmann::json& json, const std::string& where,
                                  Step& step) {
  using Prepend = Step::Prepend;
  static const std::map<std::string, Prepend> kSchemes = {
      {"always", Prepend::always}, {"first", Prepend::first}, {"never", Prepend::never}};
  step.space = read_character(json, "replacement", where);
  const std::string scheme = json.value("prepend_scheme", "always");
  const auto known = kSchemes.find(scheme);
  if (known == kSchemes.end()) {
    throw DataError("{}: unknown prepend_scheme {} of pre_tokenizer Metaspace", where,
                    shown(scheme));
  }
  step.prepend = known->second;
  const nlohmann::json& add = optional_member(json, "add_prefix_space");
  if (!add.is_null() && !add.get<bool>() && step.prepend != Prepend::never) {
    throw DataError("{}: pre_tokenizer Metaspace: add_prefix_space contradicts prepend_scheme {}",
                    where, shown(scheme));
  }
  if (const nlohmann::json& split = optional_member(json, "split");
      split.is_null() || split.get<bool>()) {
    step.kind = Step::Kind::literal;
    step.literal = step.space;
    step.behavior = Behavior::merged_with_next;
  }
}

void PreTokenizer::find_matches(const Step& step, std::string_view text, Workspace& workspace) {
  auto& matches = workspace.matches;
  matches.clear();
  switch (step.kind) {
    case Step::Kind::digits:
      for (std::size_t i = 0; i < text.size();) {
        const std::size_t begin = i;
        if (is_numeric(next_code_point(text, i))) {
          matches.emplace_back(begin, i);
        }
      }
      break;
    case Step::Kind::literal:
      for (std::size_t i = 0; (i = text.find(step.literal, i)) != std::string_view::npos;
           i += step.literal.size()) {
        matches.emplace_back(i, i + step.literal.size());
      }
      break;
    case Step::Kind::regex:
      for (Regex::Match match{0, 0}; step.regex->find(text, match.end, match, workspace.regex);) {
        matches.emplace_back(match.begin, match.end);
        if (match.end == text.size()) {
          break;
        }
      }
      break;
    case Step::Kind::none:
      break;
  }
}

void PreTokenizer::apply(const Step& step, std::string_view text, Workspace& workspace) {
  find_matches(step, text, workspace);
  // Matches and the gaps between them cover the text.
  struct Piece {
    std::size_t begin, end;
    bool match;
  };
  std::vector<Piece> pieces;
  std::size_t done = 0;
  for (const auto& [begin, end] : workspace.matches) {
    if (done < begin) {
      pieces.push_back({done, begin, step.invert});
    }
    pieces.push_back({begin, end, !step.invert});
    done = end;
  }
  if (done < text.size()) {
    pieces.push_back({done, text.size(), step.invert});
  }
  auto& words = workspace.next;
  const auto push = [&](std::size_t begin, std::size_t end) {
    words.push_back(text.substr(begin, end - begin));
  };
  const auto is_match = [&](std::size_t i) { return i < pieces.size() && pieces[i].match; };
  for (std::size_t i = 0; i < pieces.size();) {
    std::size_t last = i;
    switch (step.behavior) {
      case Behavior::removed:
      case Behavior::isolated:
        break;
      case Behavior::contiguous:
        while (last + 1 < pieces.size() && pieces[last + 1].match == pieces[i].match) {
          ++last;
        }
        break;
      case Behavior::merged_with_previous:
        last += !pieces[i].match && is_match(i + 1) ? 1 : 0;
        break;
      case Behavior::merged_with_next:
        last += pieces[i].match && i + 1 < pieces.size() && !pieces[i + 1].match ? 1 : 0;
        break;
    }
    if (step.behavior != Behavior::removed || !pieces[i].match) {
      push(pieces[i].begin, pieces[last].end);
    }
    i = last + 1;
  }
}

std::string_view PreTokenizer::rewrite(const Step& step, std::string_view word, bool first,
                                       Workspace& workspace) {
  if (step.add_prefix_space && !word.starts_with(' ')) {
    return workspace.rewritten.emplace_back(fmt::format(" {}", word));
  }
  if (step.space.empty()) {
    return word;
  }
  std::string& result = workspace.rewritten.emplace_back();
  const bool prepends =
      step.prepend == Step::Prepend::always || (step.prepend == Step::Prepend::first && first);
  if (prepends && !word.starts_with(' ') && !word.starts_with(step.space)) {
    result = step.space;
  }
  for (const char c : word) {
    if (c == ' ') {
      result += step.space;
    } else {
      result += c;
    }
  }
  return result;
}

void PreTokenizer::split(std::string_view text, bool first, Workspace& workspace) const {
  workspace.words.assign(1, text);
  workspace.rewritten.clear();
  const char* start = first ? text.data() : nullptr;  // where a word that begins the string begins
  for (const Step& step : steps_) {
    workspace.next.clear();
    for (std::string_view word : workspace.words) {
      const bool begins = word.data() == start;
      word = rewrite(step, word, begins, workspace);
      if (begins) {
        start = word.data();
      }
      if (step.kind == Step::Kind::none) {
        workspace.next.push_back(word);
      } else {
        apply(step, word, workspace);
      }
    }
    std::swap(workspace.words, workspace.next);
  }
}

}  // namespace graphlora
