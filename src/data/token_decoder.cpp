#include "data/token_decoder.hpp"

#include <fmt/ranges.h>

#include <optional>

#include "core/error.hpp"
#include "data/byte_level.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

std::string join(const std::vector<std::string>& tokens) {
  return fmt::format("{}", fmt::join(tokens, ""));
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

std::string replace_all(const std::string& text, const std::string& pattern,
                        const std::string& content) {
  std::string result;
  std::size_t done = 0;
  for (std::size_t i = 0; (i = text.find(pattern, done)) != std::string::npos;
       done = i + pattern.size()) {
    result.append(text, done, i - done).append(content);
  }
  return result.append(text, done);
}

}  // namespace

TokenDecoder::TokenDecoder(const nlohmann::json& json, const std::string& where) {
  spaces_ = json.is_null();
  for (const nlohmann::json* part : flatten(json, "decoders")) {
    add(*part, where);
  }
}

void TokenDecoder::add(const nlohmann::json& json, const std::string& where) {
  const std::string type = json.at("type");
  if (type == "ByteLevel") {
    steps_.push_back({Step::Kind::byte_level, {}, {}});
  } else if (type == "ByteFallback") {
    steps_.push_back({Step::Kind::byte_fallback, {}, {}});
  } else if (type == "Fuse") {
    steps_.push_back({Step::Kind::fuse, {}, {}});
  } else if (type == "Replace" && json.at("pattern").contains("String")) {
    steps_.push_back({Step::Kind::replace, json.at("pattern").at("String"), json.at("content")});
    if (steps_.back().pattern.empty()) {
      throw DataError("{}: decoder Replace with an empty pattern", where);
    }
  } else {
    throw DataError(
        "{}: unsupported decoder type \"{}\" (supported: ByteLevel, ByteFallback, Fuse, Replace of "
        "a "
        "String, Sequence)",
        where, type);
  }
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
        for (std::string& token : tokens) {
          token = replace_all(token, step.pattern, step.content);
        }
        break;
    }
  }
  return join(tokens);
}

}  // namespace graphlora
