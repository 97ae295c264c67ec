// Every item's title as tokens, computed once.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "data/dataset.hpp"
#include "data/tokenizer.hpp"

namespace graphlora {

/// Titles in quotes, alone and as they continue a list (`, "Title"`). Memory: about 100 bytes an
/// item.
class TitleTokens {
 public:
  /// Tokenizes in parallel. Throws DataError.
  TitleTokens(const Dataset& dataset, const Tokenizer& tokenizer)
      : TitleTokens(dataset, tokenizer, 0, dataset.items()) {}
  /// Of the items [begin, end) only: one rank's share, whose pieces count from 0. Throws DataError.
  TitleTokens(const Dataset& dataset, const Tokenizer& tokenizer, std::int64_t begin,
              std::int64_t end);
  /// From all ranks' shares, one behind the other. Throws DataError if they are not those of
  /// `items` items.
  TitleTokens(std::span<const std::int32_t> tokens, std::span<const std::int64_t> lengths,
              std::int64_t items);

  /// `"Title"`
  std::span<const std::int32_t> first(std::int64_t item) const { return piece(2 * item); }
  /// `, "Title"`
  std::span<const std::int32_t> next(std::int64_t item) const { return piece(2 * item + 1); }

  std::span<const std::int32_t> tokens() const { return tokens_; }
  /// What they take in memory.
  std::int64_t bytes() const {
    return static_cast<std::int64_t>(tokens_.size() * sizeof(tokens_[0]) +
                                     offsets_.size() * sizeof(offsets_[0]));
  }
  /// Of every piece: two an item.
  std::vector<std::int64_t> lengths() const;

 private:
  std::span<const std::int32_t> piece(std::int64_t i) const {
    return std::span(tokens_).subspan(offsets_[i], offsets_[i + 1] - offsets_[i]);
  }
  std::vector<std::int32_t> tokens_;
  std::vector<std::size_t> offsets_;
};

}  // namespace graphlora
