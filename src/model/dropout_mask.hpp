// The mask of one token's row, for kernels that apply it on the fly.
#pragma once
#include <cstdint>

#include "model/dropout.hpp"
#include "model/dropout_kernel.hpp"

namespace graphlora {

/// Draws rows of a dropout mask: 0 or 1/(1−p) per feature. Feature f takes 16 bits of Philox:
/// counter word 3 is (4·layer + group)·2^16 + 16·⌊f/128⌋ + f mod 16, halfword ⌊f/16⌋ mod 8 (low
/// half of word 0 first); words 0 and 1 are the stream, word 2 the position. A feature is dropped
/// if its bits are below round(p·2^16), which also defines p.
class DropoutMask {
 public:
  DropoutMask(const DropoutKey& key, std::int64_t layer, InputGroup group);
  bool active() const { return threshold_ > 0; }
  /// Draws features [first, first + features) into `buffer`, which has room for padded(first,
  /// features) numbers, and returns where the first of them stands in it.
  const float* row(float* buffer, std::int64_t first, std::int64_t features, std::int64_t stream,
                   std::int64_t position) const;

  /// The factor of what is kept.
  float scale() const { return scale_; }
  /// The same mask for loops on the device of streams_T and positions_T (i64, contiguous), which
  /// must outlive them.
  kernel::FeatureMask features(std::int64_t first, std::int64_t features,
                               const at::Tensor& streams_T, const at::Tensor& positions_T) const {
    return {key_,
            place_,
            threshold_,
            first,
            features,
            streams_T.const_data_ptr<std::int64_t>(),
            positions_T.const_data_ptr<std::int64_t>()};
  }

  static std::int64_t padded(std::int64_t first, std::int64_t features) {
    return (first % kChunk + features + kChunk - 1) / kChunk * kChunk;
  }

 private:
  static constexpr std::int64_t kChunk = 128;  // features of 16 counters
  std::uint64_t key_;
  std::uint32_t place_;
  std::uint32_t threshold_;
  float scale_;
};

}  // namespace graphlora
