// Byte-pair encoding of one word: merges of adjacent symbols, lowest rank first, leftmost first.
// Symbols begin as bytes (in the byte-level alphabet) or as characters (as SentencePiece has them).
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace graphlora {

class Bpe {
 public:
  using Vocabulary = std::unordered_map<std::string, std::int32_t>;
  struct Config {
    bool byte_level = true;      ///< tokens are written in the byte-level alphabet
    bool ignore_merges = false;  ///< a word that is a token stays whole
    bool byte_fallback = false;  ///< a character without token becomes its bytes' tokens <0xXX>
    bool fuse_unknown = false;   ///< neighbouring unknown characters become one unknown token
    std::optional<std::string> unknown_token;  ///< without one, unknown characters vanish
  };
  /// What a thread keeps between words: buffers, and the words seen last.
  class Workspace {
   public:
    Workspace();

   private:
    friend class Bpe;
    struct CachedWord {  // one cache line
      std::uint8_t length = 0, ids = 0;
      std::array<char, 22> bytes{};
      std::array<std::int32_t, 10> id{};
    };
    struct Node {
      std::int32_t id;
      std::int32_t previous, next;  // −1: none
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position, id;
    };
    std::vector<CachedWord> cache_;
    std::vector<std::int32_t> ids_;
    std::vector<std::uint32_t> ranks_;
    std::vector<Node> nodes_;
    std::vector<Candidate> heap_;
  };

  /// `merges` in order of rank. Throws DataError, prefixed by `where`, for merges of or into tokens
  /// that are not in the vocabulary.
  Bpe(const Vocabulary& vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
      const Config& config, const std::string& where);

  /// Appends the ids of a word (well-formed UTF-8, before the byte-level alphabet). Thread-safe
  /// with one Workspace a thread.
  void encode(std::string_view word, std::vector<std::int32_t>& ids, Workspace& workspace) const;

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;
    std::uint32_t rank = 0;
    std::int32_t id = 0;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t slot(std::uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15U) >> shift_; }
  const Merge* find(std::int32_t left, std::int32_t right) const;
  void insert(const Merge& merge);
  void read_characters(const Vocabulary& vocabulary);
  /// Appends the tokens of a character's bytes; false, and none, if one has no token.
  bool fall_back(std::string_view character, std::vector<std::int32_t>& ids) const;
  void split_characters(std::string_view word, std::vector<std::int32_t>& ids) const;
  void merge_short(std::vector<std::int32_t>& ids, Workspace& workspace) const;
  void merge_long(std::vector<std::int32_t>& ids, Workspace& workspace) const;

  std::vector<Merge> merges_;  // open addressing, at most half full
  int shift_ = 64;
  struct Character {
    std::vector<std::int32_t> ids;  // none: unknown
    bool fallback = false;
  };
  std::array<Character, 256> characters_;                        // by byte; not byte-level: ASCII
  std::unordered_map<char32_t, std::int32_t> other_characters_;  // not byte-level: beyond ASCII
  std::array<std::int32_t, 256> byte_tokens_;  // <0xXX>; −1: none, or no byte_fallback
  std::unordered_map<std::string, std::int32_t> whole_words_;
  std::int32_t unknown_ = -1;
  bool byte_level_ = true;
  bool fuse_unknown_ = false;
};

}  // namespace graphlora
