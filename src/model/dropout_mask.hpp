// The mask of one token's row, for kernels that apply it on the fly.
#pragma once
#include <cstdint>

#include "model/dropout.hpp"

namespace graphlora {

/// Draws rows of a dropout mask: 0 or 1/(1−p) per feature. Feature f takes 16 bits of Philox:
/// counter word 3 is (4·layer + group)·2^16 + 16·⌊f/128⌋ + f mod 16, halfword ⌊f/16⌋ mod 8 (low
/// half of word 0 first); words 0 and 1 are the stream, word 2 the position. A feature is dropped
/// if its bits are below round(p·2^16), which also defines p.
class DropoutMask {
 public:
  DropoutMask(const DropoutKey& key, std::int64_t layer, InputGroup group);
  bool active() const { return threshold_ > 0; }
  /// mask[0…features), with room for a multiple of 128.
  void row(float* mask, std::int64_t features, std::int64_t stream, std::int64_t position) const;

  static std::int64_t padded(std::int64_t features) { return (features + 127) / 128 * 128; }

 private:
  std::uint64_t key_;
  std::uint32_t place_;
  std::uint32_t threshold_;
  float scale_;
};

}  // namespace graphlora
