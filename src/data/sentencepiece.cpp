// The file is read here and not by libsentencepiece: its interface tells neither which pieces are
// user-defined nor the rules of normalization, which HF's ids depend on. Schema:
// sentencepiece_model.proto of that project.
#include "data/sentencepiece.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxPiece = 512;  // bytes; published models have at most 48

[[noreturn]] void refuse_file(const std::string& where) {
  throw DataError(
      "{}: not a SentencePiece model, or damaged (the vocabulary of a tiktoken tokenizer must be "
      "converted to tokenizer.json with transformers)",
      where);
}

/// One message of the protocol buffers wire format, field by field.
class WireReader {
 public:
  struct Field {
    std::uint64_t number = 0;
    std::uint64_t value = 0;  // of a number; a float's bits
    std::string_view bytes;   // of a string or message
  };
  WireReader(std::string_view data, const std::string& where) : data_(data), where_(where) {}

  std::optional<Field> next() {
    if (data_.empty()) return std::nullopt;
    const std::uint64_t key = varint();
    Field field;
    field.number = key >> 3;
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        for (int i = 0; const char byte : take(4)) {
          field.value |= std::uint64_t{static_cast<std::uint8_t>(byte)} << (8 * i++);
        }
        break;
      default:
        fail();
    }
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<std::uint8_t>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }
  std::string_view take(std::uint64_t size) {
    if (size > data_.size()) fail();
    const std::string_view bytes = data_.substr(0, size);
    data_.remove_prefix(size);
    return bytes;
  }
  [[noreturn]] void fail() const { refuse_file(where_); }

  std::string_view data_;
  const std::string& where_;
};

struct Piece {
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  std::string text;
  float score = 0;
  Type type = Type::normal;
};

Piece read_piece(std::string_view message, std::size_t id, const std::string& where) {
  Piece piece;
  WireReader reader(message, where);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      piece.text = field->bytes;
    } else if (field->number == 2) {
      piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field->value));
    } else if (field->number == 3) {
      piece.type = static_cast<Piece::Type>(field->value);
    }
  }
  if (piece.text.empty() || piece.text.size() > kMaxPiece ||
      find_invalid_utf8(piece.text) != std::string_view::npos || !std::isfinite(piece.score)) {
    throw DataError(
        "{}: piece {} ({}) is damaged: it must have 1 to {} bytes of UTF-8 and a finite score",
        where, id, shown(piece.text), kMaxPiece);
  }
  return piece;
}

void check_trainer(std::string_view message, const std::string& where) {
  std::uint64_t type = 1;
  WireReader reader(message, where);
  while (const auto field = reader.next()) {
    if (field->number == 3) {
      type = field->value;
    } else if (field->number == 24 && field->value != 0) {
      throw DataError("{}: unsupported SentencePiece model: white space as a suffix", where);
    }
  }
  constexpr const char* kNames[] = {"unigram", "BPE", "word", "char"};
  if (type != 2) {
    throw DataError("{}: unsupported SentencePiece model type {} (supported: BPE)", where,
                    type >= 1 && type <= 4 ? kNames[type - 1] : std::to_string(type));
  }
}

void check_normalizer(std::string_view message, const std::string& where) {
  std::string name;
  bool identity = true;
  bool removes_spaces = true;  // the format's default
  WireReader reader(message, where);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      name = field->bytes;
    } else if (field->number == 2) {
      identity = field->bytes.empty();
    } else if (field->number == 4) {
      removes_spaces = field->value != 0;
    }
  }
  if (!identity || removes_spaces) {
    throw DataError(
        "{}: unsupported SentencePiece normalizer {}{} (supported: identity, all white space kept)",
        where, shown(name), removes_spaces ? " with remove_extra_whitespaces" : "");
  }
}

std::vector<Piece> read_pieces(const std::string& data, const std::string& where) {
  std::vector<Piece> pieces;
  std::string_view trainer, normalizer;
  WireReader reader(data, where);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      pieces.push_back(read_piece(field->bytes, pieces.size(), where));
    } else if (field->number == 2) {
      trainer = field->bytes;
    } else if (field->number == 3) {
      normalizer = field->bytes;
    }
  }
  if (pieces.size() < 3) refuse_file(where);
  check_trainer(trainer, where);
  check_normalizer(normalizer, where);
  return pieces;
}

/// Every way to put a piece together from two others, as HF's generate_merges orders them: by
/// score, then the longer left part, then the longer right part first.
json merges_of(const std::vector<Piece>& pieces,
               const std::unordered_map<std::string_view, std::size_t>& ids) {
  struct Merge {
    float score;
    std::size_t left_characters, right_characters;  // what Python counts
    std::size_t left, right;
  };
  std::vector<Merge> merges;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const std::string_view text = pieces[id].text;
    const auto characters = static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
    const float score = id < 3 ? 0 : pieces[id].score;  // as HF's LlamaConverter
    const auto first = static_cast<std::ptrdiff_t>(merges.size());
    std::size_t end = 0;
    for (std::size_t left_characters = 1; left_characters < characters; ++left_characters) {
      next_code_point(text, end);
      const auto left = ids.find(text.substr(0, end));
      if (left == ids.end()) continue;
      const auto right = ids.find(text.substr(end));
      if (right == ids.end()) continue;
      merges.push_back(
          {score, left_characters, characters - left_characters, left->second, right->second});
    }
    std::sort(merges.begin() + first, merges.end(), [](const Merge& a, const Merge& b) {
      return std::pair(a.left, a.right) < std::pair(b.left, b.right);
    });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tuple(a.score, a.left_characters, a.right_characters) >
           std::tuple(b.score, b.left_characters, b.right_characters);
  });
  json list = json::array();
  for (const Merge& merge : merges) {
    list.push_back({pieces[merge.left].text, pieces[merge.right].text});
  }
  return list;
}

/// tokenizer_config.json and added_tokens.json; what a file does not say is as in LlamaTokenizer.
class TokenizerConfig {
 public:
  explicit TokenizerConfig(const std::filesystem::path& directory) {
    if (const auto path = directory / "tokenizer_config.json"; path_exists(path)) {
      where_ = path.string();
      root_ = read_json(path);
      const std::string name = root_.value("tokenizer_class", "LlamaTokenizer");
      if (name != "LlamaTokenizer" && name != "LlamaTokenizerFast") {
        throw DataError(
            "{}: unsupported tokenizer_class {} of a tokenizer.model (supported: LlamaTokenizer; "
            "or convert to tokenizer.json with transformers)",
            where_, shown(name));
      }
    }
    if (const auto path = directory / "added_tokens.json"; path_exists(path)) {
      added_ = read_json(path);
    }
  }
  /// A switch; null counts as the default.
  bool flag(const char* name, bool value) const {
    const json& member = optional_member(root_, name);
    return member.is_null() ? value : member.get<bool>();
  }
  /// A special token as an object with "content"; null if the file says there is none.
  json special(const char* name, const char* standard) const {
    const auto found = root_.find(name);
    if (found == root_.end()) {
      return standard == nullptr ? json() : json{{"content", standard}};
    }
    return found->is_string() ? json{{"content", *found}} : *found;
  }
  /// Added tokens, as objects with "content", in order of the ids the files give them.
  std::vector<json> added() const {
    std::map<std::int64_t, json> by_id;
    for (const auto& [content, id] : added_.items()) {
      by_id[id.get<std::int64_t>()] = {{"content", content}, {"special", false}};
    }
    for (const auto& [id, token] : optional_member(root_, "added_tokens_decoder").items()) {
      if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos) {
        throw DataError("{}: added_tokens_decoder has the id {}", where_, shown(id));
      }
      by_id[std::stoll(id)] = token;
    }
    std::vector<json> tokens;
    for (auto& [id, token] : by_id) tokens.push_back(std::move(token));
    return tokens;
  }

 private:
  std::string where_;
  json root_ = json::object(), added_ = json::object();
};

/// `added_tokens` of the tokenizer.json. A token named again keeps its place and takes the new
/// flags.
class AddedTokenList {
 public:
  explicit AddedTokenList(std::size_t vocabulary)
      : next_id_(static_cast<std::int64_t>(vocabulary)) {}
  void add(std::optional<std::size_t> id, const json& token, bool special) {
    const std::string content = token.at("content");
    const auto [place, is_new] = places_.emplace(content, list_.size());
    json entry = {{"id", id ? static_cast<std::int64_t>(*id) : next_id_},
                  {"content", content},
                  {"special", special || token.value("special", false)}};
    for (const char* name : {"single_word", "lstrip", "rstrip", "normalized"}) {
      entry[name] = token.value(name, false);
    }
    if (is_new) {
      if (!id) ++next_id_;
      list_.push_back(std::move(entry));
    } else {
      entry["id"] = list_[place->second]["id"];
      list_[place->second] = std::move(entry);
    }
  }
  bool holds(const std::string& content) const { return places_.contains(content); }
  std::int64_t id(const std::string& content) const {
    return list_[places_.at(content)]["id"].get<std::int64_t>();
  }
  const json& list() const { return list_; }

 private:
  json list_ = json::array();
  std::map<std::string, std::size_t> places_;
  std::int64_t next_id_;
};

json literal(const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

/// The parts of the tokenizer.json that put "▁" in the place of spaces, and back.
void add_space_rules(const TokenizerConfig& config, json& root) {
  const bool prefix = config.flag("add_prefix_space", true);
  if (config.flag("legacy", true)) {
    json normalizers = json::array();
    if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
    normalizers.push_back(literal(" ", "▁"));
    root["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  } else {
    root["pre_tokenizer"] = {{"type", "Metaspace"},
                             {"replacement", "▁"},
                             {"prepend_scheme", prefix ? "first" : "never"},
                             {"split", false}};
  }
  json decoders = {literal("▁", " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  root["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
}

json convert(const std::vector<Piece>& pieces, const TokenizerConfig& config,
             const std::string& where) {
  std::unordered_map<std::string_view, std::size_t> ids;
  json vocabulary = json::object();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (!ids.emplace(pieces[id].text, id).second) {
      throw DataError("{}: piece {} ({}) stands there twice", where, id, shown(pieces[id].text));
    }
    vocabulary[pieces[id].text] = id;
  }
  const auto id_of = [&](const std::string& content) -> std::optional<std::size_t> {
    const auto found = ids.find(content);
    return found == ids.end() ? std::nullopt : std::optional(found->second);
  };
  AddedTokenList added(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const Piece::Type type = pieces[id].type;
    if (type == Piece::Type::control || type == Piece::Type::user_defined) {
      added.add(id, {{"content", pieces[id].text}}, type == Piece::Type::control);
    }
  }
  for (const json& token : config.added()) {
    added.add(id_of(token.at("content")), token, false);
  }
  json bos;
  for (const auto& [name, standard] : {std::pair{"bos_token", "<s>"},
                                       {"eos_token", "</s>"},
                                       {"unk_token", "<unk>"},
                                       {"pad_token", nullptr}}) {
    const json token = config.special(name, standard);
    if (token.is_null()) continue;
    if (std::string_view(name) == "bos_token") bos = token;
    const std::string content = token.at("content");
    if (!added.holds(content)) added.add(id_of(content), token, true);
  }
  json root = {{"added_tokens", added.list()},
               {"model",
                {{"type", "BPE"},
                 {"vocab", std::move(vocabulary)},
                 {"merges", merges_of(pieces, ids)},
                 {"unk_token", pieces[0].text},
                 {"fuse_unk", true},
                 {"byte_fallback", true}}}};
  add_space_rules(config, root);
  if (config.flag("add_bos_token", true)) {
    if (bos.is_null()) throw DataError("{}: add_bos_token without a bos_token", where);
    const std::string content = bos.at("content");
    root["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", content}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{content, {{"ids", {added.id(content)}}}}}}};
  }
  return root;
}

}  // namespace

json read_sentencepiece(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.model";
  const std::vector<Piece> pieces = read_pieces(read_file(path, kMaxBytes), path.string());
  try {
    return convert(pieces, TokenizerConfig(directory), path.string());
  } catch (const json::exception& error) {
    throw DataError("{}: tokenizer_config.json or added_tokens.json is not as HF writes them: {}",
                    path.string(), shown(error.what()));
  }
}

}  // namespace graphlora
