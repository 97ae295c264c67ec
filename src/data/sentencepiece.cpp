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
#include <set>
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

/// tokenizer_config.json and, where it has no added_tokens_decoder, special_tokens_map.json and
/// added_tokens.json as well, put together as HF does; what no file says is as in LlamaTokenizer.
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
    if (root_.contains("added_tokens_decoder")) {
      read_decoder();
    } else {
      merge_special_tokens_map(directory / "special_tokens_map.json");
      read_added_tokens(directory / "added_tokens.json");
    }
  }
  /// A switch; null counts as the default.
  bool flag(const char* name, bool value) const {
    const json& member = optional_member(root_, name);
    return member.is_null() ? value : member.get<bool>();
  }
  /// The text of the token that begins a sequence; none if the files say so.
  std::optional<std::string> bos() const {
    const json token = special("bos_token", "<s>");
    return token.is_null() ? std::nullopt : std::optional(content_of(token));
  }
  /// Added tokens, as objects with "content", by the ids the files give them.
  const std::map<std::int64_t, json>& added() const { return added_; }
  /// The special tokens in HF's order: an object with "content" sets the flags of its token, a
  /// string leaves those that an added token of this text has.
  std::vector<json> special_tokens() const {
    std::vector<json> tokens;
    std::set<std::string> seen;
    for (const auto& [name, standard] : kSpecialTokens) {
      json token = special(name, standard);
      if (token.is_null()) continue;
      if (in_decoder(content_of(token))) token = content_of(token);
      if (seen.insert(content_of(token)).second) tokens.push_back(token);
    }
    for (const json& token : additional()) {  // may hold one twice
      if (!seen.contains(content_of(token))) tokens.push_back(token);
    }
    return tokens;
  }
  static std::string content_of(const json& token) {
    return token.is_string() ? token.get<std::string>() : token.at("content").get<std::string>();
  }

 private:
  using Members = std::map<std::string, json>;
  /// A special token as the files have it; null if there is none. HF's LlamaTokenizer makes those
  /// it has arguments for out of strings itself.
  json special(const std::string& name, const char* standard) const {
    const auto found = root_.find(name);
    if (found == root_.end() && standard == nullptr) return {};
    const json token = found == root_.end() ? json(standard) : *found;
    const bool argument = standard != nullptr || name == "pad_token";
    return token.is_string() && argument ? json{{"content", token}, {"normalized", false}}
                                         : with_normalized(token);
  }
  /// A token's default follows the flag it has in the file, before it is counted as special.
  static json with_normalized(json token) {
    if (token.is_object() && !token.contains("normalized"))
      token["normalized"] = !token.value("special", false);
    return token;
  }
  std::vector<json> additional() const {
    const json& list = optional_member(root_, "additional_special_tokens");
    if (list.is_null()) return {};
    auto tokens = list.get<std::vector<json>>();
    for (json& token : tokens) token = with_normalized(std::move(token));
    return tokens;
  }
  bool in_decoder(const std::string& content) const {
    return root_.contains("added_tokens_decoder") &&
           std::any_of(added_.begin(), added_.end(),
                       [&](const auto& entry) { return content_of(entry.second) == content; });
  }
  void read_decoder() {
    for (const auto& [id, token] : root_["added_tokens_decoder"].get<Members>()) {
      if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos) {
        throw DataError("{}: added_tokens_decoder has the id {}", where_, shown(id));
      }
      added_[std::stoll(id)] = token;
    }
  }
  void merge_special_tokens_map(const std::filesystem::path& path) {
    if (!path_exists(path)) return;
    const auto as_special = [](json token) {
      if (token.is_object()) token["special"] = true;
      return token;
    };
    for (const auto& [name, value] : read_json(path).get<Members>()) {
      if (name == "additional_special_tokens" && value.is_array()) {
        std::vector<json> tokens = additional();
        for (const json& token : value) tokens.push_back(as_special(token));
        root_[name] = tokens;
      } else {
        root_[name] = as_special(value);
      }
    }
  }
  void read_added_tokens(const std::filesystem::path& path) {
    if (!path_exists(path)) return;
    std::set<std::string> special;  // not those that no file names: as in HF
    for (const auto& [name, standard] : kSpecialTokens) {
      const json& token = optional_member(root_, name);
      if (!token.is_null()) special.insert(content_of(token));
    }
    for (const json& token : additional()) special.insert(content_of(token));
    for (const auto& [content, id] : read_json(path).get<Members>()) {
      const bool is_special = special.contains(content);
      added_[id.get<std::int64_t>()] = {
          {"content", content}, {"special", is_special}, {"normalized", !is_special}};
    }
  }

  /// What HF's order begins with, and the texts where no file names one.
  static constexpr std::pair<const char*, const char*> kSpecialTokens[] = {
      {"bos_token", "<s>"},   {"eos_token", "</s>"},  {"unk_token", "<unk>"},
      {"sep_token", nullptr}, {"pad_token", nullptr}, {"cls_token", nullptr},
      {"mask_token", nullptr}};

  std::string where_;
  json root_ = json::object();
  std::map<std::int64_t, json> added_;
};

/// `added_tokens` of the tokenizer.json. A token named again keeps its place and whether it is
/// normalized, as in HF's memory (but not in what HF saves), and takes the other flags.
class AddedTokenList {
 public:
  explicit AddedTokenList(std::size_t vocabulary)
      : next_id_(static_cast<std::int64_t>(vocabulary)) {}
  void add(std::optional<std::size_t> id, const json& token, bool special) {
    const std::string content = TokenizerConfig::content_of(token);
    const json flags = token.is_string() ? json::object() : token;
    special = special || flags.value("special", false);
    const auto [place, is_new] = places_.emplace(content, list_.size());
    json entry = {{"id", id ? static_cast<std::int64_t>(*id) : next_id_},
                  {"content", content},
                  {"special", special},
                  {"normalized", flags.value("normalized", !special)}};
    for (const char* name : {"single_word", "lstrip", "rstrip"}) {
      entry[name] = flags.value(name, false);
    }
    if (is_new) {
      if (!id) ++next_id_;
      list_.push_back(std::move(entry));
      return;
    }
    json& older = list_[place->second];
    for (const char* name : {"id", "normalized"}) entry[name] = older[name];
    older = std::move(entry);
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
      added.add(id, {{"content", pieces[id].text}, {"normalized", false}},
                type == Piece::Type::control);
    }
  }
  const std::vector<json> special_tokens = config.special_tokens();
  std::set<std::string> special;
  for (const json& token : special_tokens) special.insert(TokenizerConfig::content_of(token));
  for (const auto& [id, token] : config.added()) {
    const std::string content = TokenizerConfig::content_of(token);
    added.add(id_of(content), token, special.contains(content));
  }
  for (const json& token : special_tokens) {
    const std::string content = TokenizerConfig::content_of(token);
    if (!token.is_string() || !added.holds(content)) added.add(id_of(content), token, true);
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
    const std::optional<std::string> bos = config.bos();
    if (!bos) throw DataError("{}: add_bos_token without a bos_token", where);
    root["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", *bos}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{*bos, {{"ids", {added.id(*bos)}}}}}}};
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
    throw DataError(
        "{}: tokenizer_config.json, special_tokens_map.json or added_tokens.json beside it are "
        "not as HF writes them: {}",
        path.string(), shown(error.what()));
  }
}

}  // namespace graphlora
