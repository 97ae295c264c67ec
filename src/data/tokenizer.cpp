#include "data/tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <mutex>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/added_tokens.hpp"
#include "data/bpe.hpp"
#include "data/normalizer.hpp"
#include "data/pre_tokenizer.hpp"
#include "data/sentencepiece.hpp"
#include "data/token_decoder.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

using nlohmann::json;

// The largest vocabularies have some 300,000 tokens; an id far above is a broken file.
constexpr std::int64_t kMaxId = 1 << 24;

std::int32_t read_id(const json& value, const std::string& token, const std::string& where) {
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > kMaxId) {
    throw DataError("{}: token {} has the id {}, allowed are 0 to {}", where, shown(token),
                    value.is_number() ? value.dump() : value.type_name(), kMaxId);
  }
  return value.get<std::int32_t>();
}

const json& require(const json& object, const char* name, const std::string& where) {
  const json& member = optional_member(object, name);
  if (member.is_null()) {
    throw DataError("{}: \"{}\" is missing", where, name);
  }
  return member;
}

/// A value that has no effect here must be absent, null, empty or zero.
void refuse_set(const json& model, const char* name, const std::string& where) {
  const json& member = optional_member(model, name);
  if (!member.is_null() && member != "" && member != 0) {
    throw DataError("{}: unsupported {} of the BPE model", where, name);
  }
}

Bpe::Vocabulary read_vocabulary(const json& model, const std::string& where) {
  const json& vocab = require(model, "vocab", where);
  if (!vocab.is_object() || vocab.empty()) {
    throw DataError("{}: \"vocab\" of a BPE model must be a non-empty object", where);
  }
  Bpe::Vocabulary vocabulary;
  vocabulary.reserve(vocab.size());
  std::vector<bool> seen;
  for (const auto& [token, value] : vocab.items()) {
    const std::int32_t id = read_id(value, token, where);
    if (seen.size() <= static_cast<std::size_t>(id)) {
      seen.resize(id + 1, false);
    }
    if (seen[id]) {
      throw DataError("{}: token {} has the id {}, which another token has too", where,
                      shown(token), id);
    }
    seen[id] = true;
    vocabulary.emplace(token, id);
  }
  return vocabulary;
}

std::vector<std::pair<std::string, std::string>> read_merges(const json& model,
                                                             const std::string& where) {
  const json& list = require(model, "merges", where);
  std::vector<std::pair<std::string, std::string>> merges;
  if (!list.is_array() || list.size() > static_cast<std::size_t>(kMaxId)) {
    throw DataError("{}: \"merges\" must be a list of at most {} pairs", where, kMaxId);
  }
  merges.reserve(list.size());
  for (const json& merge : list) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(merge[0], merge[1]);
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      throw DataError("{}: merge {} ({}) is not a pair of tokens", where, merges.size(),
                      shown(text));
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

/// Ids that the post-processor puts in front of a single text.
std::vector<std::int32_t> read_prefix(const json& processor, const std::string& where) {
  std::vector<std::int32_t> prefix;
  for (const json* part : flatten(processor, "processors", where)) {
    const std::string type = part->at("type");
    if (type == "ByteLevel") {
      continue;  // moves offsets only
    }
    if (type != "TemplateProcessing") {
      throw DataError(
          "{}: unsupported post_processor type {} (supported: ByteLevel, TemplateProcessing, "
          "Sequence)",
          where, shown(type));
    }
    bool has_text = false;
    for (const json& piece : part->at("single")) {
      if (piece.contains("Sequence")) {
        has_text = true;
        break;
      }
      const std::string name = piece.at("SpecialToken").at("id");
      const json& token = optional_member(part->at("special_tokens"), name.c_str());
      if (token.is_null()) {
        throw DataError("{}: the post_processor's template names {}, which it does not define",
                        where, shown(name));
      }
      for (const json& id : token.at("ids")) {
        prefix.push_back(read_id(id, name, where));
      }
    }
    if (!has_text) {
      throw DataError("{}: the post_processor's template has no Sequence", where);
    }
  }
  return prefix;
}

}  // namespace

struct Tokenizer::Impl {
  struct Workspace {
    PreTokenizer::Workspace pre_tokenizer;
    Bpe::Workspace bpe;
    std::vector<AddedTokenMatcher::Span> raw, normalized;
  };

  Impl(const json& root, const std::string& where)
      : where_(where),
        normalizer_(optional_member(root, "normalizer"), where),
        pre_tokenizer_(optional_member(root, "pre_tokenizer"), where),
        decoder_(optional_member(root, "decoder"), where) {
    const json& model = require(root, "model", where);
    if (model.value("type", "BPE") != "BPE") {
      throw DataError("{}: unsupported model type {} (supported: BPE)", where,
                      shown(model.at("type").get<std::string>()));
    }
    for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      refuse_set(model, name, where);
    }
    const Bpe::Vocabulary vocabulary = read_vocabulary(model, where);
    Bpe::Config config;
    config.byte_level = pre_tokenizer_.byte_level();
    config.ignore_merges = model.value("ignore_merges", false);
    config.byte_fallback = model.value("byte_fallback", false);
    config.fuse_unknown = model.value("fuse_unk", false);
    if (const json& unknown = optional_member(model, "unk_token"); !unknown.is_null()) {
      config.unknown_token = unknown.get<std::string>();
    }
    bpe_.emplace(vocabulary, read_merges(model, where), config, where);
    for (const auto& [token, id] : vocabulary) {
      name(id, token);
    }
    add_tokens(optional_member(root, "added_tokens"), vocabulary);
    for (const std::int32_t id : read_prefix(optional_member(root, "post_processor"), where)) {
      if (bos_) {
        throw DataError("{}: the post_processor puts more than one token in front", where);
      }
      if (static_cast<std::size_t>(id) >= tokens_.size() || tokens_[id].empty()) {
        throw DataError("{}: the post_processor adds the id {}, which no token has", where, id);
      }
      bos_ = id;
    }
  }

  void name(std::int32_t id, const std::string& token) {
    if (tokens_.size() <= static_cast<std::size_t>(id)) {
      tokens_.resize(id + 1);
    }
    tokens_[id] = token;
  }

  void add_tokens(const json& list, const Bpe::Vocabulary& vocabulary) {
    std::vector<AddedToken> raw, normalized;
    std::set<std::string> seen;
    Regex::Workspace workspace;
    auto next_id = static_cast<std::int32_t>(vocabulary.size());
    for (const json& entry : list) {
      AddedToken token;
      token.content = entry.at("content");
      token.single_word = entry.value("single_word", false);
      token.lstrip = entry.value("lstrip", false);
      token.rstrip = entry.value("rstrip", false);
      if (token.content.empty() || !seen.insert(token.content).second) {
        throw DataError("{}: added token {} is empty or listed twice", where_,
                        shown(token.content));
      }
      token.id = read_id(require(entry, "id", where_), token.content, where_);
      // HF gives an added token its id in the vocabulary, else the next free one, whatever the file
      // says.
      const auto known = vocabulary.find(token.content);
      const std::int32_t expected = known != vocabulary.end() ? known->second : next_id;
      if (token.id != expected) {
        throw DataError("{}: added token {} has the id {}, by the vocabulary it would be {}",
                        where_, shown(token.content), token.id, expected);
      }
      next_id = std::max(next_id, token.id + 1);
      name(token.id, token.content);
      const bool special = entry.value("special", false);
      if (entry.value("normalized", !special)) {
        token.content = normalizer_.apply(token.content, workspace);
        normalized.push_back(std::move(token));
      } else {
        raw.push_back(std::move(token));
      }
    }
    raw_ = AddedTokenMatcher(std::move(raw));
    normalized_ = AddedTokenMatcher(std::move(normalized));
  }

  void encode(std::string_view text, std::vector<std::int32_t>& ids, Workspace& workspace) const {
    workspace.raw.clear();
    raw_.split(text, workspace.raw);
    for (const auto& span : workspace.raw) {
      if (span.id >= 0) {
        ids.push_back(span.id);
        continue;
      }
      const std::string rewritten =
          normalizer_.empty() ? std::string()
                              : normalizer_.apply(span.text, workspace.pre_tokenizer.regex);
      const std::string_view normal = normalizer_.empty() ? span.text : rewritten;
      workspace.normalized.clear();
      normalized_.split(normal, workspace.normalized);
      for (const auto& part : workspace.normalized) {
        if (part.id >= 0) {
          ids.push_back(part.id);
          continue;
        }
        const bool first = span.text.data() == text.data() && part.text.data() == normal.data();
        pre_tokenizer_.split(part.text, first, workspace.pre_tokenizer);
        for (const std::string_view word : workspace.pre_tokenizer.words) {
          bpe_->encode(word, ids, workspace.bpe);
        }
      }
    }
  }

  std::unique_ptr<Workspace> take_workspace() {
    const std::lock_guard lock(mutex_);
    if (workspaces_.empty()) {
      return std::make_unique<Workspace>();
    }
    auto workspace = std::move(workspaces_.back());
    workspaces_.pop_back();
    return workspace;
  }
  void return_workspace(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex_);
    workspaces_.push_back(std::move(workspace));
  }

  std::string where_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  TokenDecoder decoder_;
  std::optional<std::int32_t> bos_;
  std::optional<Bpe> bpe_;
  AddedTokenMatcher raw_, normalized_;
  std::vector<std::string> tokens_;  // by id; empty: no such token

  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>>
      workspaces_;  // idle ones; as many as threads ever encoded at once
};

Tokenizer::Tokenizer(const std::filesystem::path& model_directory) {
  std::filesystem::path path = model_directory / "tokenizer.json";
  const std::filesystem::path sentencepiece = model_directory / "tokenizer.model";
  json root;
  if (!path_exists(path) && path_exists(sentencepiece)) {
    path = sentencepiece;
    root = read_sentencepiece(model_directory);
  } else {
    root = read_json(path);
  }
  if (!root.is_object()) {
    throw DataError("{}: not a tokenizer as HF writes them", path.string());
  }
  try {
    impl_ = std::make_unique<Impl>(root, path.string());
  } catch (const json::exception& error) {
    throw DataError("{}: not a tokenizer as HF writes them: {}", path.string(),
                    shown(error.what()));
  }
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw DataError("cannot tokenize a text of {} bytes: at most 2 GiB at once", text.size());
  }
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos) {
    throw DataError("cannot tokenize a text that is not UTF-8: byte {} is 0x{:02X}", at,
                    static_cast<std::uint8_t>(text[at]));
  }
  std::vector<std::int32_t> ids;
  auto workspace = impl_->take_workspace();
  impl_->encode(text, ids, *workspace);
  impl_->return_workspace(std::move(workspace));
  return ids;
}

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary_size()) {
      throw DataError("{}: cannot decode the token id {}, allowed are 0 to {}", impl_->where_, id,
                      vocabulary_size() - 1);
    }
    if (!impl_->tokens_[id].empty()) tokens.push_back(impl_->tokens_[id]);
  }
  return impl_->decoder_.decode(std::move(tokens));
}

std::optional<std::int32_t> Tokenizer::bos() const { return impl_->bos_; }

std::int64_t Tokenizer::vocabulary_size() const {
  return static_cast<std::int64_t>(impl_->tokens_.size());
}

}  // namespace graphlora
