// The dropout mask, feature by feature, for CPU and CUDA alike: the bits of DropoutMask. And the
// loops that apply it. No tensors here.
#pragma once
#include <cstdint>

#include "core/host_device.hpp"

namespace graphlora::kernel {

/// core/rng.hpp's philox4x32.
GRAPHLORA_HOST_DEVICE inline void philox(std::uint32_t (&counter)[4], std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{counter[0]} * 0xD2511F53U,
                        p1 = std::uint64_t{counter[2]} * 0xCD9E8D57U;
    const auto high0 = static_cast<std::uint32_t>(p0 >> 32),
               high1 = static_cast<std::uint32_t>(p1 >> 32);
    counter[0] = high1 ^ counter[1] ^ k0;
    counter[1] = static_cast<std::uint32_t>(p1);
    counter[2] = high0 ^ counter[3] ^ k1;
    counter[3] = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
}

/// Of features [first, first + features) of every token. One counter serves 8 features, 16 apart;
/// a loop's columns are the counters that touch the range.
struct FeatureMask {
  std::uint64_t key = 0;
  std::uint32_t place = 0, threshold = 0;  ///< threshold 0: everything is kept, nothing is drawn
  std::int64_t first = 0, features = 0;
  const std::int64_t *streams = nullptr, *positions = nullptr;

  static constexpr std::int64_t kChunk = 128, kLanes = 16;

  std::int64_t columns() const {
    return (first % kChunk + features + kChunk - 1) / kChunk * kLanes;
  }

  /// visit(feature − first, whether it is kept) for the features of one counter within the range.
  template <class Visit>
  GRAPHLORA_HOST_DEVICE void each(std::int64_t token, std::int64_t column,
                                  const Visit& visit) const {
    const std::int64_t chunk = first / kChunk + column / kLanes, lane = column % kLanes;
    std::uint32_t words[4] = {};
    if (threshold > 0) {
      const auto stream = static_cast<std::uint64_t>(streams[token]);
      words[0] = static_cast<std::uint32_t>(stream);
      words[1] = static_cast<std::uint32_t>(stream >> 32);
      words[2] = static_cast<std::uint32_t>(positions[token]);
      words[3] = place + static_cast<std::uint32_t>(kLanes * chunk + lane);
      philox(words, key);
    }
    for (int half = 0; half < 8; ++half) {
      const std::int64_t feature = chunk * kChunk + kLanes * half + lane - first;
      if (feature < 0 || feature >= features) continue;
      const std::uint32_t bits = half % 2 == 0 ? words[half / 2] & 0xFFFFU : words[half / 2] >> 16;
      visit(feature, bits >= threshold);
    }
  }
};

/// to = from·scale where kept, else 0.
template <class T>
struct ApplyMask {
  using C = Compute<T>;
  FeatureMask mask;
  C scale;
  const T* from;
  T* to;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t token, std::int64_t column) const {
    const std::int64_t row = token * mask.features;
    mask.each(token, column, [&](std::int64_t feature, bool kept) {
      to[row + feature] =
          kept ? static_cast<T>(static_cast<C>(from[row + feature]) * scale) : static_cast<T>(0.0F);
    });
  }
};

/// dx += m∘(Aᵀ·du), m = scale where kept: rounded once.
template <class T>
struct AddProjectGradient {
  using C = Compute<T>;
  FeatureMask mask;
  C scale;
  const C *a, *du;  // (ranks, features), (tokens, ranks)
  std::int64_t ranks;
  T* dx;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t token, std::int64_t column) const {
    mask.each(token, column, [&](std::int64_t feature, bool kept) {
      if (!kept) return;
      C sum = 0;
      for (std::int64_t q = 0; q < ranks; ++q)
        sum += du[token * ranks + q] * a[q * mask.features + feature];
      T& to = dx[token * mask.features + feature];
      to = static_cast<T>(static_cast<C>(to) + sum * scale);
    });
  }
};

/// y += h·Bᵀ on one slice of the outputs: rounded once.
template <class T>
struct ExpandSlice {
  using C = Compute<T>;
  const C* h;   // tokens x h_row, at the slice's first rank
  const C* bt;  // (rank, outputs of the slice)
  T* y;         // tokens x y_row, at the slice's first output
  std::int64_t h_row, y_row, rank, outputs;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t token, std::int64_t output) const {
    T& to = y[token * y_row + output];
    C sum = static_cast<C>(to);
    for (std::int64_t q = 0; q < rank; ++q) sum += h[token * h_row + q] * bt[q * outputs + output];
    to = static_cast<T>(sum);
  }
};

}  // namespace graphlora::kernel
