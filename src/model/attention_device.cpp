// Shapes: T tokens, S queries, N heads, G kv heads, R = N/G heads a group, D head_dim; of a batch
// of B segments: Q queries and K keys each, padded.
#include "model/attention_device.hpp"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#ifdef GRAPHLORA_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace graphlora {
namespace {

// Scores in memory at once; a single query's are always allowed.
constexpr std::int64_t kMaxScores = std::int64_t{1} << 25;

at::ScalarType compute_type(const at::Tensor& q) {
  return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Tokens of the pack along the path of segment i.
std::vector<std::int64_t> path_of(std::span<const SegmentQueries> all, std::size_t i) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(all[i].keys()));
  for (auto s = static_cast<std::int64_t>(i); s >= 0; s = all[s].parent)
    std::iota(tokens.begin() + all[s].depth, tokens.begin() + all[s].keys(), all[s].begin);
  return tokens;
}

/// Queries [first, first + width) of each of the segments [begin, end).
PaddedBatch make_batch(std::span<const SegmentQueries> all, std::size_t begin, std::size_t end,
                       std::int64_t first, std::int64_t width, std::int64_t keys,
                       at::Device device) {
  const auto size = static_cast<std::int64_t>(end - begin);
  const at::Tensor query_BQ = at::empty({size, width}, at::kLong),
                   last_BQ = at::empty({size, width}, at::kLong),
                   key_BK = at::empty({size, keys}, at::kLong);
  std::vector<std::int64_t> real_queries, query_rows, real_keys, key_rows;
  auto* query = query_BQ.mutable_data_ptr<std::int64_t>();
  auto* last = last_BQ.mutable_data_ptr<std::int64_t>();
  auto* key = key_BK.mutable_data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < size; ++b) {
    const SegmentQueries& s = all[begin + static_cast<std::size_t>(b)];
    const std::vector<std::int64_t> path = path_of(all, begin + static_cast<std::size_t>(b));
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int64_t own = std::min(first + i, std::max<std::int64_t>(s.count - 1, 0));
      query[b * width + i] = s.count > 0 ? s.row + own : 0;
      last[b * width + i] = s.count > 0 ? s.place(s.token + own) : 0;
      if (first + i >= s.count) continue;
      real_queries.push_back(b * width + i);
      query_rows.push_back(s.row + own);
    }
    for (std::int64_t j = 0; j < keys; ++j) {
      key[b * keys + j] = path[std::min(j, s.keys() - 1)];
      if (j >= s.keys()) continue;
      real_keys.push_back(b * keys + j);
      key_rows.push_back(path[j]);
    }
  }
  const auto to_device = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(values, at::kLong).to(device);
  };
  return {query_BQ.to(device),   key_BK.to(device),    last_BQ.to(device), to_device(real_queries),
          to_device(query_rows), to_device(real_keys), to_device(key_rows)};
}

/// Rows of a batch in the compute type, by group: (B, G, heads a group·rows, D).
at::Tensor rows_by_group(const at::Tensor& x_SND, const at::Tensor& place_BQ, std::int64_t groups) {
  const std::int64_t size = place_BQ.size(0), rows = place_BQ.size(1), dim = x_SND.size(2);
  return x_SND.index_select(0, place_BQ.flatten())
      .to(compute_type(x_SND))
      .view({size, rows, groups, x_SND.size(1) / groups, dim})
      .permute({0, 2, 3, 1, 4})
      .reshape({size, groups, -1, dim});
}

/// The reverse for the real rows, in the type of the activations: (rows, heads, D).
at::Tensor real_rows(const at::Tensor& x_BGrD, const at::Tensor& real, std::int64_t rows,
                     at::ScalarType type) {
  const std::int64_t size = x_BGrD.size(0), groups = x_BGrD.size(1), dim = x_BGrD.size(3),
                     heads = x_BGrD.size(2) / rows;
  return x_BGrD.view({size, groups, heads, rows, dim})
      .permute({0, 3, 1, 2, 4})
      .reshape({size * rows, groups * heads, dim})
      .index_select(0, real)
      .to(type);
}

at::Tensor probabilities(const at::Tensor& q_BGrD, const at::Tensor& k_BGKD,
                         const PaddedBatch& batch, std::int64_t window) {
  const std::int64_t size = q_BGrD.size(0), groups = q_BGrD.size(1), rows = batch.query_BQ.size(1),
                     keys = batch.key_BK.size(1);
  const at::Tensor last_BQ1 = batch.last_BQ.unsqueeze(2),
                   place_K = at::arange(keys, last_BQ1.options());
  at::Tensor hidden_BQK = place_K > last_BQ1;
  if (window > 0) hidden_BQK = hidden_BQK.logical_or_(place_K <= last_BQ1 - window);
  at::Tensor scores =
      at::matmul(q_BGrD, k_BGKD.transpose(2, 3)).view({size, groups, -1, rows, keys});
  scores.masked_fill_(hidden_BQK.unsqueeze(1).unsqueeze(1), -INFINITY);
  return scores.softmax(-1).view({size, groups, -1, keys});
}

}  // namespace

const std::vector<PaddedBatch>& PackQueries::batches(std::int64_t heads, at::Device device) const {
  if (batches_ && batches_->device == device && batches_->heads == heads) return batches_->made;
  std::vector<PaddedBatch> made;
  for (std::size_t begin = 0; begin < segments_.size();) {
    std::size_t end = begin;
    std::int64_t keys = 0, most = 0;
    while (end < segments_.size()) {
      const std::int64_t wider = std::max(keys, segments_[end].keys()),
                         more = std::max(most, segments_[end].count);
      const auto size = static_cast<std::int64_t>(end - begin + 1);
      if (end > begin && size * heads * wider * more > kMaxScores) break;
      keys = wider, most = more, ++end;
    }
    const auto size = static_cast<std::int64_t>(end - begin);
    const std::int64_t block =
        std::max<std::int64_t>(1, std::min(most, kMaxScores / (size * heads * keys)));
    for (std::int64_t first = 0; first < most; first += block) {
      made.push_back(
          make_batch(segments_, begin, end, first, std::min(block, most - first), keys, device));
    }
    begin = end;
  }
  return batches_.emplace(Kept<std::vector<PaddedBatch>>{device, heads, std::move(made)}).made;
}

const FlashPlaces& PackQueries::flash(at::Device device) const {
  if (flash_ && flash_->device == device) return flash_->made;
  FlashPlaces made;
  std::vector<std::int32_t> offsets{0}, key_offsets{0};
  bool shares = false;
  for (const SegmentQueries& s : segments_) {
    offsets.push_back(static_cast<std::int32_t>(s.begin + s.length));
    key_offsets.push_back(key_offsets.back() + static_cast<std::int32_t>(s.keys()));
    made.longest = std::max(made.longest, s.length);
    made.longest_path = std::max(made.longest_path, s.keys());
    shares = shares || s.parent >= 0;
  }
  made.offsets = at::tensor(offsets, at::kInt).to(device);
  made.key_offsets = made.offsets;
  if (shares) {
    std::vector<std::int64_t> rows;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      const auto path = path_of(segments_, i);
      rows.insert(rows.end(), path.begin(), path.end());
    }
    made.key_offsets = at::tensor(key_offsets, at::kInt).to(device);
    made.key_rows = at::tensor(rows, at::kLong).to(device);
  }
  return flash_.emplace(Kept<FlashPlaces>{device, 0, std::move(made)}).made;
}

at::Tensor padded_attention(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                            const at::Tensor& v_TGD, const PackQueries& queries,
                            std::int64_t window) {
  const std::int64_t groups = k_TGD.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q_SND.size(2)));
  at::Tensor o_SND = at::empty_like(q_SND);
  for (const PaddedBatch& batch : queries.batches(q_SND.size(1), q_SND.device())) {
    const at::Tensor q = rows_by_group(q_SND, batch.query_BQ, groups).mul_(scale);
    const at::Tensor p =
        probabilities(q, rows_by_group(k_TGD, batch.key_BK, groups), batch, window);
    const at::Tensor o = at::matmul(p, rows_by_group(v_TGD, batch.key_BK, groups));
    o_SND.index_copy_(
        0, batch.query_rows_S,
        real_rows(o, batch.real_queries_S, batch.query_BQ.size(1), q_SND.scalar_type()));
  }
  return o_SND;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> padded_attention_backward(
    const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
    const at::Tensor& d_o_SND, const PackQueries& queries, std::int64_t window) {
  const std::int64_t groups = k_TGD.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q_SND.size(2)));
  at::Tensor dq_SND = at::empty_like(q_SND);
  // Sums over blocks of queries, so in the compute type.
  at::Tensor dk_TGD = at::zeros(k_TGD.sizes(), k_TGD.options().dtype(compute_type(k_TGD))),
             dv_TGD = at::zeros_like(dk_TGD);
  for (const PaddedBatch& batch : queries.batches(q_SND.size(1), q_SND.device())) {
    const std::int64_t rows = batch.query_BQ.size(1), keys = batch.key_BK.size(1);
    const at::Tensor q = rows_by_group(q_SND, batch.query_BQ, groups).mul_(scale),
                     k = rows_by_group(k_TGD, batch.key_BK, groups),
                     v = rows_by_group(v_TGD, batch.key_BK, groups);
    // Padded queries have no gradient.
    at::Tensor real_BQ = at::zeros({batch.query_BQ.numel()}, q.options());
    real_BQ.index_fill_(0, batch.real_queries_S, 1);
    const at::Tensor d_o = rows_by_group(d_o_SND, batch.query_BQ, groups)
                               .view({q.size(0), groups, -1, rows, q.size(3)})
                               .mul_(real_BQ.view({q.size(0), 1, 1, rows, 1}))
                               .view(q.sizes());
    const at::Tensor p = probabilities(q, k, batch, window);
    at::Tensor d_s = at::matmul(d_o, v.transpose(2, 3));
    d_s = p * (d_s - (p * d_s).sum(-1, /*keepdim=*/true));
    dq_SND.index_copy_(
        0, batch.query_rows_S,
        real_rows(at::matmul(d_s, k).mul_(scale), batch.real_queries_S, rows, q_SND.scalar_type()));
    const auto add = [&](at::Tensor& sum_TGD, const at::Tensor& part_BGKD) {
      // A key's row is in a batch once for each segment below it.
      sum_TGD.index_add_(0, batch.key_rows_T,
                         real_rows(part_BGKD, batch.real_keys_T, keys, sum_TGD.scalar_type()));
    };
    add(dk_TGD, at::matmul(d_s.transpose(2, 3), q));
    add(dv_TGD, at::matmul(p.transpose(2, 3), d_o));
  }
  return {dq_SND, dk_TGD.to(k_TGD.scalar_type()), dv_TGD.to(v_TGD.scalar_type())};
}

namespace {

/// Keys or values as the flash kernels read them. With their queries at the end of the paths, the
/// kernels' causal mask (aligned there) and window are the right ones.
at::Tensor along_paths(const at::Tensor& x_TGD, const FlashPlaces& places) {
  return places.key_rows.defined() ? x_TGD.index_select(0, places.key_rows) : x_TGD;
}

/// Keys that a query sees to its left and to its right, as the kernels count them.
std::pair<std::optional<std::int64_t>, std::optional<std::int64_t>> sides(std::int64_t window) {
  if (window == 0) return {};
  return {window - 1, 0};
}

}  // namespace

bool flash_attention_fits([[maybe_unused]] const at::Tensor& q_SND,
                          [[maybe_unused]] const PackQueries& queries) {
#ifdef GRAPHLORA_HAS_CUDA
  if (!q_SND.is_cuda() || q_SND.scalar_type() != at::kBFloat16) return false;
  if (q_SND.size(2) % 8 != 0 || q_SND.size(2) > 256 || q_SND.size(0) == 0) return false;
  for (const SegmentQueries& s : queries.segments())
    if (s.count != s.length || s.row != s.begin || s.token != s.begin) return false;
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                q_SND.device().index()) == cudaSuccess &&
         major >= 8;
#else
  return false;
#endif
}

FlashAttention flash_attention(const at::Tensor& q_TND, const at::Tensor& k_TGD,
                               const at::Tensor& v_TGD, const PackQueries& queries,
                               std::int64_t window) {
  const FlashPlaces& places = queries.flash(q_TND.device());
  const auto [left, right] = sides(window);
  FlashAttention result;
  at::Tensor debug_mask;
  std::tie(result.o_TND, result.log_sum, result.random_state, result.unused, debug_mask) =
      at::_flash_attention_forward(q_TND, along_paths(k_TGD, places), along_paths(v_TGD, places),
                                   places.offsets, places.key_offsets, places.longest,
                                   places.longest_path, /*dropout_p=*/0.0,
                                   /*is_causal=*/true, /*return_debug_mask=*/false,
                                   /*scale=*/std::nullopt, left, right);
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& d_o_TND, const at::Tensor& q_TND, const at::Tensor& k_TGD,
    const at::Tensor& v_TGD, const FlashAttention& forward, const PackQueries& queries,
    std::int64_t window) {
  const FlashPlaces& places = queries.flash(q_TND.device());
  const auto [left, right] = sides(window);
  auto [dq_TND, dk, dv] = at::_flash_attention_backward(
      d_o_TND, q_TND, along_paths(k_TGD, places), along_paths(v_TGD, places), forward.o_TND,
      forward.log_sum, places.offsets, places.key_offsets, places.longest, places.longest_path,
      /*dropout_p=*/0.0, /*is_causal=*/true, forward.random_state, forward.unused,
      /*scale=*/std::nullopt, left, right);
  if (!places.key_rows.defined()) return {dq_TND, dk, dv};
  const auto summed = [&](const at::Tensor& path_gradients, const at::Tensor& x_TGD) {
    return at::zeros(x_TGD.sizes(), x_TGD.options().dtype(at::kFloat))
        .index_add_(0, places.key_rows, path_gradients.to(at::kFloat))
        .to(x_TGD.scalar_type());
  };
  return {dq_TND, summed(dk, k_TGD), summed(dv, v_TGD)};
}

}  // namespace graphlora
