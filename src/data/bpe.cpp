#include "data/bpe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/error.hpp"
#include "data/byte_level.hpp"
#include "data/tokenizer_json.hpp"
#include "data/unicode.hpp"

namespace graphlora {
namespace {

constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();
// Above this many symbols a heap beats the search for the lowest rank.
constexpr std::size_t kShort = 48;
constexpr std::size_t kCacheSize = 1 << 12;

}  // namespace

Bpe::Workspace::Workspace() : cache_(kCacheSize) {}

Bpe::Bpe(const Vocabulary& vocabulary,
         const std::vector<std::pair<std::string, std::string>>& merges, const Config& config,
         const std::string& where)
    : byte_level_(config.byte_level), fuse_unknown_(config.fuse_unknown) {
  const std::size_t slots = std::bit_ceil(2 * merges.size() + 2);
  merges_.resize(slots);
  shift_ = 64 - std::countr_zero(slots);
  const auto id_of = [&](const std::string& token, std::size_t rank, const char* role) {
    const auto found = vocabulary.find(token);
    if (found == vocabulary.end()) {
      throw DataError("{}: merge {} {} {}, which the vocabulary lacks", where, rank, role,
                      shown(token));
    }
    return found->second;
  };
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    insert({key(id_of(left, rank, "uses"), id_of(right, rank, "uses")),
            static_cast<std::uint32_t>(rank), id_of(left + right, rank, "makes")});
  }

  if (config.unknown_token) {
    const auto found = vocabulary.find(*config.unknown_token);
    if (found == vocabulary.end()) {
      throw DataError("{}: the vocabulary lacks the unk_token {}", where,
                      shown(*config.unknown_token));
    }
    unknown_ = found->second;
  }
  byte_tokens_.fill(-1);
  if (config.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = vocabulary.find(fmt::format("<0x{:02X}>", byte));
      byte_tokens_[byte] = found != vocabulary.end() ? found->second : -1;
    }
  }
  read_characters(vocabulary);
  if (config.ignore_merges) {
    for (const auto& [token, id] : vocabulary) {
      if (auto bytes = byte_level_ ? characters_to_bytes(token) : token) {
        whole_words_.emplace(std::move(*bytes), id);
      }
    }
  }
}

void Bpe::read_characters(const Vocabulary& vocabulary) {
  for (int byte = 0; byte < (byte_level_ ? 256 : 128); ++byte) {
    const std::string character = byte_level_ ? byte_to_character(static_cast<std::uint8_t>(byte))
                                              : std::string(1, static_cast<char>(byte));
    auto& [ids, fallback] = characters_[byte];
    if (const auto found = vocabulary.find(character); found != vocabulary.end()) {
      ids = {found->second};
    } else {
      fallback = fall_back(character, ids);
    }
  }
  if (byte_level_) {
    return;
  }
  for (const auto& [token, id] : vocabulary) {
    std::size_t end = 0;
    if (token.empty()) continue;
    const char32_t c = next_code_point(token, end);
    if (end == token.size() && c >= 128) {
      other_characters_.emplace(c, id);
    }
  }
}

bool Bpe::fall_back(std::string_view character, std::vector<std::int32_t>& ids) const {
  const std::size_t size = ids.size();
  for (const char byte : character) {
    const std::int32_t id = byte_tokens_[static_cast<std::uint8_t>(byte)];
    if (id < 0) {
      ids.resize(size);
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

const Bpe::Merge* Bpe::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = key(left, right);
  for (std::size_t i = slot(pair);; i = (i + 1) & (merges_.size() - 1)) {
    if (merges_[i].pair == pair) {
      return &merges_[i];
    }
    if (merges_[i].pair == kNoPair) {
      return nullptr;
    }
  }
}

void Bpe::insert(const Merge& merge) {
  std::size_t i = slot(merge.pair);
  while (merges_[i].pair != kNoPair && merges_[i].pair != merge.pair) {
    i = (i + 1) & (merges_.size() - 1);
  }
  merges_[i] = merge;  // of a pair named twice, the last rank counts
}

void Bpe::split_characters(std::string_view word, std::vector<std::int32_t>& ids) const {
  // An unknown token waits until the next known character, as in HF: fallback bytes overtake it.
  bool waiting = false;
  const auto unknown = [&] {
    if (waiting && !fuse_unknown_) {
      ids.push_back(unknown_);
    }
    waiting = unknown_ >= 0;
  };
  const auto known = [&] {
    if (waiting) {
      ids.push_back(unknown_);
      waiting = false;
    }
  };
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t begin = i;
    const auto byte = static_cast<std::uint8_t>(word[i]);
    if (byte_level_ || byte < 128) {
      ++i;
      const auto& [tokens, fallback] = characters_[byte];
      if (tokens.empty()) {
        unknown();
        continue;
      }
      if (!fallback) known();
      ids.insert(ids.end(), tokens.begin(), tokens.end());
      continue;
    }
    const auto found = other_characters_.find(next_code_point(word, i));
    if (found != other_characters_.end()) {
      known();
      ids.push_back(found->second);
    } else if (!fall_back(word.substr(begin, i - begin), ids)) {
      unknown();
    }
  }
  known();
}

void Bpe::merge_short(std::vector<std::int32_t>& ids, Workspace& workspace) const {
  std::vector<std::uint32_t>& ranks = workspace.ranks_;
  const auto rank = [&](std::size_t i) {
    const Merge* merge = i + 1 < ids.size() ? find(ids[i], ids[i + 1]) : nullptr;
    return merge != nullptr ? merge->rank : kNoRank;
  };
  ranks.resize(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ranks[i] = rank(i);
  }
  while (true) {
    const auto lowest = std::min_element(ranks.begin(), ranks.end());
    if (lowest == ranks.end() || *lowest == kNoRank) {
      return;
    }
    const auto i = lowest - ranks.begin();
    ids[i] = find(ids[i], ids[i + 1])->id;
    ids.erase(ids.begin() + i + 1);
    ranks.erase(ranks.begin() + i + 1);
    ranks[i] = rank(i);
    if (i > 0) {
      ranks[i - 1] = rank(i - 1);
    }
  }
}

void Bpe::merge_long(std::vector<std::int32_t>& ids, Workspace& workspace) const {
  using Candidate = Workspace::Candidate;
  auto& nodes = workspace.nodes_;
  auto& heap = workspace.heap_;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto push = [&](std::int32_t position) {
    if (position < 0 || nodes[position].next < 0) {
      return;
    }
    if (const Merge* merge = find(nodes[position].id, nodes[nodes[position].next].id)) {
      heap.push_back({merge->rank, position, merge->id});
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };
  const auto size = static_cast<std::int32_t>(ids.size());
  nodes.clear();
  heap.clear();
  for (std::int32_t i = 0; i < size; ++i) {
    nodes.push_back({ids[i], i - 1, i + 1 < size ? i + 1 : -1});
  }
  for (std::int32_t i = 0; i < size; ++i) {
    push(i);
  }
  constexpr std::int32_t kMerged = -1;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate best = heap.back();
    heap.pop_back();
    Workspace::Node& left = nodes[best.position];
    if (left.id == kMerged || left.next < 0) {
      continue;
    }
    Workspace::Node& right = nodes[left.next];
    const Merge* merge = find(left.id, right.id);
    if (merge == nullptr || merge->rank != best.rank) {
      continue;  // one of the two has changed since
    }
    left.id = best.id;
    left.next = right.next;
    right.id = kMerged;
    if (left.next >= 0) {
      nodes[left.next].previous = best.position;
    }
    push(left.previous);
    push(best.position);
  }
  ids.clear();
  for (std::int32_t i = 0; i >= 0; i = nodes[i].next) {
    ids.push_back(nodes[i].id);
  }
  constexpr std::size_t kKept = 1 << 16;
  if (nodes.size() > kKept) {
    nodes = {};
    heap = {};
  }
}

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& ids,
                 Workspace& workspace) const {
  if (word.empty()) {
    return;
  }
  Workspace::CachedWord* cached = nullptr;
  if (word.size() <= workspace.cache_[0].bytes.size()) {
    cached = &workspace.cache_[std::hash<std::string_view>{}(word) % kCacheSize];
    if (cached->length == word.size() &&
        std::memcmp(cached->bytes.data(), word.data(), word.size()) == 0) {
      ids.insert(ids.end(), cached->id.begin(), cached->id.begin() + cached->ids);
      return;
    }
  }
  std::vector<std::int32_t>& symbols = workspace.ids_;
  symbols.clear();
  const auto whole =
      whole_words_.empty() ? whole_words_.end() : whole_words_.find(std::string(word));
  if (whole != whole_words_.end()) {
    symbols.push_back(whole->second);
  } else {
    split_characters(word, symbols);
    if (symbols.size() > kShort) {
      merge_long(symbols, workspace);
    } else {
      merge_short(symbols, workspace);
    }
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
  if (cached != nullptr && symbols.size() <= cached->id.size()) {
    cached->length = static_cast<std::uint8_t>(word.size());
    cached->ids = static_cast<std::uint8_t>(symbols.size());
    std::copy(word.begin(), word.end(), cached->bytes.begin());
    std::copy(symbols.begin(), symbols.end(), cached->id.begin());
  }
}

}  // namespace graphlora
