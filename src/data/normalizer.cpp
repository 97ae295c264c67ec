#include "data/normalizer.hpp"

#include <map>

#include "core/error.hpp"
#include "data/tokenizer_json.hpp"

namespace graphlora {
namespace {

void check_growth(std::size_t bytes, std::size_t limit, const std::string& where) {
  if (bytes > limit) {
    throw DataError("{}: its Replace or Prepend makes a text longer than {} bytes", where, limit);
  }
}

}  // namespace

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content,
                        std::size_t limit, const std::string& where) {
  std::string result;
  std::size_t done = 0;
  for (std::size_t i = 0; (i = text.find(pattern, done)) != std::string_view::npos;
       done = i + pattern.size()) {
    result.append(text.substr(done, i - done)).append(content);
    check_growth(result.size(), limit, where);
  }
  result.append(text.substr(done));
  check_growth(result.size(), limit, where);
  return result;
}

Normalizer::Normalizer(const nlohmann::json& json, const std::string& where) : where_(where) {
  for (const nlohmann::json* part : flatten(json, "normalizers", where)) {
    add(*part);
  }
}

void Normalizer::add(const nlohmann::json& json) {
  static const std::map<std::string, NormalForm> kForms = {{"NFC", NormalForm::nfc},
                                                           {"NFD", NormalForm::nfd},
                                                           {"NFKC", NormalForm::nfkc},
                                                           {"NFKD", NormalForm::nfkd}};
  const std::string type = json.at("type");
  Step step;
  if (const auto form = kForms.find(type); form != kForms.end()) {
    step.form = form->second;
  } else if (type == "Prepend") {
    step.kind = Step::Kind::prepend;
    step.content = json.at("prepend");
  } else if (type == "Replace") {
    const nlohmann::json& pattern = json.at("pattern");
    step.content = json.at("content");
    if (pattern.contains("Regex")) {
      step.kind = Step::Kind::regex;
      step.regex.emplace(pattern.at("Regex").get<std::string>(), where_);
    } else {
      step.kind = Step::Kind::literal;
      step.pattern = pattern.at("String");
      if (step.pattern.empty()) {
        throw DataError("{}: unsupported normalizer Replace of an empty string", where_);
      }
    }
  } else {
    throw DataError(
        "{}: unsupported normalizer type {} (supported: NFC, NFD, NFKC, NFKD, Prepend, Replace, "
        "Sequence)",
        where_, shown(type));
  }
  steps_.push_back(std::move(step));
}

std::string Normalizer::apply(std::string_view text, Regex::Workspace& workspace) const {
  const std::size_t limit = growth_limit(text.size());
  std::string result(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::form:
        result = normalize(result, step.form);
        break;
      case Step::Kind::prepend:
        if (!result.empty()) result.insert(0, step.content);
        check_growth(result.size(), limit, where_);
        break;
      case Step::Kind::literal:
        result = replace_all(result, step.pattern, step.content, limit, where_);
        break;
      case Step::Kind::regex: {
        std::string next;
        std::size_t done = 0;
        for (Regex::Match match{0, 0};
             done < result.size() && step.regex->find(result, done, match, workspace);
             done = match.end) {
          next.append(result, done, match.begin - done).append(step.content);
          check_growth(next.size(), limit, where_);
        }
        next.append(result, done);
        result = std::move(next);
        break;
      }
    }
  }
  return result;
}

}  // namespace graphlora
