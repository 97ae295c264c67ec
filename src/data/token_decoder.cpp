#include "data/token_decoder.hpp"

#include <fmt/ranges.h>

#include <optional>

#include "core/error.hpp"
#include "data/byte_level.hpp"
#include "data/normalizer.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

std::string join(const std::vector<std::string>& tokens) {
  return fmt::format("{}", fmt::join(tokens, ""));
}

std::size_t read_count(const nlohmann::json& json, const char* name, const std::string& where) {
  const nlohmann::json& value = json.at(name);
  if (!value.is_number_integer() || value.get<double>() < 0) {
    throw DataError("{}: decoder Strip: \"{}\" must be a number from 0", where, name);
  }
  return value.get<std::size_t>();
}

/// "<0x1F>" as its byte.
std::optional<char> fallback_byte(const std::string& token) {
  constexpr std::string_view kHex = "0123456789abcdefABCDEF";
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>' ||
      kHex.find(token[3]) == kHex.npos || kHex.find(token[4]) == kHex.npos) {
    return std::nullopt;
  }
  return static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16));
}

std::vector<std::string> join_fallback_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> result;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (find_invalid_utf8(bytes) == std::string_view::npos) {
      result.push_back(bytes);
    } else {
      result.insert(result.end(), bytes.size(), "\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (const auto byte = fallback_byte(token)) {
      bytes.push_back(*byte);
    } else {
      flush();
      result.push_back(token);
    }
  }
  flush();
  return result;
}

/// `token` without up to `start` and `stop` times `content` at its ends.
std::string strip(std::string_view token, std::string_view content, std::size_t start,
                  std::size_t stop) {
  for (; start > 0 && token.starts_with(content); --start) token.remove_prefix(content.size());
  for (; stop > 0 && token.ends_with(content); --stop) token.remove_suffix(content.size());
  return std::string(token);
}

}  // namespace

TokenDecoder::TokenDecoder(const nlohmann::json& json, const std::string& where) : where_(where) {
  spaces_ = json.is_null();
  for (const nlohmann::json* part : flatten(json, "decoders", where)) {
    add(*part);
  }
}

void TokenDecoder::add(const nlohmann::json& json) {
  const std::string type = json.at("type");
  Step step;
  if (type == "ByteLevel") {
    step.kind = Step::Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = Step::Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Step::Kind::fuse;
  } else if (type == "Replace" && json.at("pattern").contains("String")) {
    step.kind = Step::Kind::replace;
    step.pattern = json.at("pattern").at("String");
    step.content = json.at("content");
  } else if (type == "Metaspace") {
    step.kind = Step::Kind::replace;
    step.pattern = read_character(json, "replacement", where_);
    step.content = " ";
    step.drop_first = json.value("prepend_scheme", "always") != "never";
  } else if (type == "Strip") {
    step.kind = Step::Kind::strip;
    step.pattern = read_character(json, "content", where_);
    step.start = read_count(json, "start", where_);
    step.stop = read_count(json, "stop", where_);
  } else {
    throw DataError(
        "{}: unsupported decoder type {} (supported: ByteLevel, ByteFallback, Fuse, Metaspace, "
        "Replace of a String, Strip, Sequence)",
        where_, shown(type));
  }
  if (step.kind == Step::Kind::replace && step.pattern.empty()) {
    throw DataError("{}: decoder Replace with an empty pattern", where_);
  }
  steps_.push_back(std::move(step));
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  if (spaces_) {
    return fmt::format("{}", fmt::join(tokens, " "));
  }
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::byte_level: {
        std::string bytes;
        for (const std::string& token : tokens) {
          bytes += characters_to_bytes(token).value_or(token);
        }
        tokens = {replace_invalid_utf8(bytes)};
        break;
      }
      case Step::Kind::byte_fallback:
        tokens = join_fallback_bytes(tokens);
        break;
      case Step::Kind::fuse:
        tokens = {join(tokens)};
        break;
      case Step::Kind::replace:
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          const std::string_view content =
              step.drop_first && i == 0 ? std::string_view() : std::string_view(step.content);
          tokens[i] =
              replace_all(tokens[i], step.pattern, content, growth_limit(tokens[i].size()), where_);
        }
        break;
      case Step::Kind::strip:
        for (std::string& token : tokens) {
          token = strip(token, step.pattern, step.start, step.stop);
        }
        break;
    }
  }
  return join(tokens);
}

}  // namespace graphlora
