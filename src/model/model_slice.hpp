// Which part of the decoder's split linears one rank of a tensor group holds.
#pragma once
#include <cstdint>

#include "model/hf_checkpoint.hpp"

namespace graphlora {

/// Whole key/value groups, with the query heads that read them, and a range of MLP columns.
/// Embeddings, norms and the LM head are whole on every rank.
struct ModelSlice {
  int rank = 0, size = 1;                      ///< t of T
  std::int64_t first_group = 0, groups = 0;    ///< key/value groups
  std::int64_t first_head = 0, heads = 0;      ///< query heads, those of the groups
  std::int64_t first_column = 0, columns = 0;  ///< of the intermediate features

  /// Slice `rank` of `size`: groups as even as they come, the first ranks holding one more where
  /// they do not divide; columns so that the multiplications of attention and MLP together are
  /// even. Throws ConfigError if `size` exceeds the number of key/value groups or of columns.
  static ModelSlice of(const LlamaConfig& config, int size, int rank);
  /// All of it.
  static ModelSlice whole(const LlamaConfig& config) { return of(config, 1, 0); }
};

}  // namespace graphlora
