#include "data/title_tokens.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"

namespace graphlora {

TitleTokens::TitleTokens(const Dataset& dataset, const Tokenizer& tokenizer, std::int64_t first,
                         std::int64_t last) {
  constexpr std::int64_t kItems = 1024;
  struct Chunk {
    std::vector<std::int32_t> tokens;
    std::vector<std::size_t> lengths;
  };
  std::vector<Chunk> chunks((last - first + kItems - 1) / kItems);
  at::parallel_for(0, static_cast<std::int64_t>(chunks.size()), 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t c = begin; c < end; ++c) {
                       for (std::int64_t item = first + c * kItems;
                            item < std::min(first + (c + 1) * kItems, last); ++item) {
                         const std::string quoted = fmt::format("\"{}\"", dataset.title(item));
                         for (const std::string& text : {quoted, ", " + quoted}) {
                           const std::vector<std::int32_t> ids = tokenizer.encode(text);
                           chunks[c].tokens.insert(chunks[c].tokens.end(), ids.begin(), ids.end());
                           chunks[c].lengths.push_back(ids.size());
                         }
                       }
                     }
                   });
  offsets_.reserve(2 * (last - first) + 1);
  offsets_.push_back(0);
  std::size_t count = 0;
  for (const Chunk& chunk : chunks) count += chunk.tokens.size();
  tokens_.reserve(count);
  for (Chunk& chunk : chunks) {
    tokens_.insert(tokens_.end(), chunk.tokens.begin(), chunk.tokens.end());
    for (const std::size_t length : chunk.lengths) {
      offsets_.push_back(offsets_.back() + length);
    }
    chunk = {};
  }
}

TitleTokens::TitleTokens(std::span<const std::int32_t> tokens,
                         std::span<const std::int64_t> lengths, std::int64_t items)
    : tokens_(tokens.begin(), tokens.end()) {
  offsets_.reserve(lengths.size() + 1);
  offsets_.push_back(0);
  for (const std::int64_t length : lengths)
    offsets_.push_back(offsets_.back() + static_cast<std::size_t>(length));
  if (std::ssize(lengths) != 2 * items || offsets_.back() != tokens_.size())
    throw DataError("titles: {} pieces of {} tokens for {} items, {} tokens", lengths.size(),
                    offsets_.back(), items, tokens_.size());
}

std::vector<std::int64_t> TitleTokens::lengths() const {
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 0; i + 1 < offsets_.size(); ++i)
    lengths.push_back(static_cast<std::int64_t>(offsets_[i + 1] - offsets_[i]));
  return lengths;
}

}  // namespace graphlora
