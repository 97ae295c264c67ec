#include "data/title_tokens.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

namespace graphlora {

TitleTokens::TitleTokens(const Dataset& dataset, const Tokenizer& tokenizer) {
  constexpr std::int64_t kItems = 1024;
  struct Chunk {
    std::vector<std::int32_t> tokens;
    std::vector<std::size_t> lengths;
  };
  std::vector<Chunk> chunks((dataset.items() + kItems - 1) / kItems);
  at::parallel_for(0, static_cast<std::int64_t>(chunks.size()), 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t c = begin; c < end; ++c) {
                       for (std::int64_t item = c * kItems;
                            item < std::min((c + 1) * kItems, dataset.items()); ++item) {
                         const std::string quoted = fmt::format("\"{}\"", dataset.title(item));
                         for (const std::string& text : {quoted, ", " + quoted}) {
                           const std::vector<std::int32_t> ids = tokenizer.encode(text);
                           chunks[c].tokens.insert(chunks[c].tokens.end(), ids.begin(), ids.end());
                           chunks[c].lengths.push_back(ids.size());
                         }
                       }
                     }
                   });
  offsets_.reserve(2 * dataset.items() + 1);
  offsets_.push_back(0);
  for (Chunk& chunk : chunks) {
    tokens_.insert(tokens_.end(), chunk.tokens.begin(), chunk.tokens.end());
    for (const std::size_t length : chunk.lengths) {
      offsets_.push_back(offsets_.back() + length);
    }
    chunk = {};
  }
}

}  // namespace graphlora
