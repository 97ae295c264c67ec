// Shapes: T tokens, F features.
#include "model/dropout.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "core/device_loop.hpp"
#include "core/error.hpp"
#include "core/rng.hpp"
#include "model/dropout_mask.hpp"
#include "model/simd.hpp"

namespace graphlora {
namespace {

using simd::VecU32;

typedef std::uint64_t VecU64 __attribute__((vector_size(128)));
constexpr std::int64_t kChunk = 128;  // features of 16 counters, as in DropoutMask
constexpr std::int64_t kGrain = 16;

GRAPHLORA_INLINE VecU64 multiply(VecU32 x, std::uint32_t factor) {
  return __builtin_convertvector(x, VecU64) * factor;
}
GRAPHLORA_INLINE VecU32 low(VecU64 x) { return __builtin_convertvector(x, VecU32); }
GRAPHLORA_INLINE VecU32 high(VecU64 x) { return __builtin_convertvector(x >> 32, VecU32); }

/// core/rng.hpp's philox4x32 for 16 consecutive values of counter word 3. Chunks [first, end).
GRAPHLORA_CLONES void draw(float* mask, std::int64_t first, std::int64_t end, std::uint64_t stream,
                           std::uint32_t position, std::uint32_t place, std::uint64_t key,
                           std::uint32_t threshold, float scale) {
  constexpr VecU32 kLane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (std::int64_t chunk = first; chunk < end; ++chunk, mask += kChunk) {
    VecU32 c0 = VecU32{} + static_cast<std::uint32_t>(stream);
    VecU32 c1 = VecU32{} + static_cast<std::uint32_t>(stream >> 32);
    VecU32 c2 = VecU32{} + position;
    VecU32 c3 = kLane + (place + 16 * static_cast<std::uint32_t>(chunk));
    auto k0 = static_cast<std::uint32_t>(key);
    auto k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const VecU64 p0 = multiply(c0, 0xD2511F53U), p1 = multiply(c2, 0xCD9E8D57U);
      c0 = high(p1) ^ c1 ^ k0;
      c1 = low(p1);
      c2 = high(p0) ^ c3 ^ k1;
      c3 = low(p0);
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
    const simd::Vec<float> keep = simd::broadcast(scale), drop{};
    float* to = mask;
    for (const VecU32& word : {c0, c1, c2, c3}) {
      simd::store(to, (word & 0xFFFFU) < threshold ? drop : keep);
      simd::store(to + 16, (word >> 16) < threshold ? drop : keep);
      to += 32;
    }
  }
}

at::Tensor apply_mask(const at::Tensor& x_TF, const at::Tensor& streams_T,
                      const at::Tensor& positions_T, const DropoutMask& mask) {
  const at::Tensor x = x_TF.contiguous();
  at::Tensor y_TF = at::empty_like(x);
  const std::int64_t features = x.size(1);
  const auto* streams = streams_T.const_data_ptr<std::int64_t>();
  const auto* positions = positions_T.const_data_ptr<std::int64_t>();
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "dropout", [&] {
    if (takes_device_path(x, Shortcut::adapters)) {
      const kernel::FeatureMask part = mask.features(0, features, streams_T, positions_T);
      device_loop(x.device(), "dropout", x.size(0), part.columns(),
                  kernel::ApplyMask<scalar_t>{part, mask.scale(), x.const_data_ptr<scalar_t>(),
                                              y_TF.mutable_data_ptr<scalar_t>()});
      return;
    }
    at::parallel_for(0, x.size(0), kGrain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> buffer(DropoutMask::padded(0, features));
      for (std::int64_t t = begin; t < end; ++t) {
        const float* row = mask.row(buffer.data(), 0, features, streams[t], positions[t]);
        const scalar_t* from = x.const_data_ptr<scalar_t>() + t * features;
        scalar_t* to = y_TF.data_ptr<scalar_t>() + t * features;
        for (std::int64_t f = 0; f < features; ++f) {
          to[f] = static_cast<scalar_t>(static_cast<simd::Compute<scalar_t>>(from[f]) * row[f]);
        }
      }
    });
  });
  return y_TF;
}

/// y = m∘x. Adjoint: dx = m∘dy, with the mask m drawn again from its key.
struct Dropout : torch::autograd::Function<Dropout> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_TF,
                            const at::Tensor& streams_T, const at::Tensor& positions_T,
                            const DropoutKey& key, std::int64_t layer, InputGroup group) {
    ctx->save_for_backward({streams_T, positions_T});
    ctx->saved_data["probability"] = key.probability;
    ctx->saved_data["seed"] = static_cast<std::int64_t>(key.seed);
    ctx->saved_data["step"] = key.step;
    ctx->saved_data["layer"] = layer;
    ctx->saved_data["group"] = static_cast<std::int64_t>(group);
    return apply_mask(x_TF, streams_T, positions_T, DropoutMask(key, layer, group));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const DropoutKey key{ctx->saved_data["probability"].toDouble(),
                         static_cast<std::uint64_t>(ctx->saved_data["seed"].toInt()),
                         ctx->saved_data["step"].toInt()};
    const DropoutMask mask(key, ctx->saved_data["layer"].toInt(),
                           static_cast<InputGroup>(ctx->saved_data["group"].toInt()));
    return {apply_mask(gradients[0], saved[0], saved[1], mask),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

DropoutMask::DropoutMask(const DropoutKey& key, std::int64_t layer, InputGroup group)
    : key_(splitmix64(splitmix64(key.seed) + static_cast<std::uint64_t>(key.step))),
      place_((static_cast<std::uint32_t>(layer) * 4 + static_cast<std::uint32_t>(group)) << 16),
      threshold_(static_cast<std::uint32_t>(std::lround(key.probability * 65536))),
      scale_(65536.0F / static_cast<float>(65536 - threshold_)) {
  if (!(key.probability >= 0 && key.probability <= 0.99)) {
    throw ConfigError("--lora.dropout {}: must be from 0 to 0.99", key.probability);
  }
}

const float* DropoutMask::row(float* buffer, std::int64_t first, std::int64_t features,
                              std::int64_t stream, std::int64_t position) const {
  const std::int64_t chunk = first / kChunk;
  draw(buffer, chunk, chunk + padded(first, features) / kChunk, static_cast<std::uint64_t>(stream),
       static_cast<std::uint32_t>(position), place_, key_, threshold_, scale_);
  return buffer + first % kChunk;
}

at::Tensor dropout(const at::Tensor& x_TF, const at::Tensor& streams_T,
                   const at::Tensor& positions_T, const DropoutKey& key, std::int64_t layer,
                   InputGroup group) {
  TORCH_CHECK(x_TF.dim() == 2 && streams_T.is_contiguous() && positions_T.is_contiguous() &&
                  streams_T.scalar_type() == at::kLong && positions_T.scalar_type() == at::kLong &&
                  streams_T.size(0) == x_TF.size(0) && positions_T.size(0) == x_TF.size(0) &&
                  streams_T.device() == x_TF.device() && positions_T.device() == x_TF.device(),
              "dropout: shapes or devices do not agree");
  if (!DropoutMask(key, layer, group).active()) return x_TF;
  return Dropout::apply(x_TF, streams_T, positions_T, key, layer, group);
}

}  // namespace graphlora
