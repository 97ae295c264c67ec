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

/// A batch of segments and of their queries: places of the padded rows among those of q and k, the
/// real rows among the padded ones, and what a query may not see.
struct Batch {
  at::Tensor query_BQ, key_BK;              // i64 rows; padding repeats a real row
  at::Tensor real_queries_S, query_rows_S;  // i64: places in B·Q, and their rows of q
  at::Tensor real_keys_T, key_rows_T;       // i64: places in B·K, and their rows of k
  at::Tensor hidden_BQK;                    // bool
};

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
Batch make_batch(std::span<const SegmentQueries> all, std::size_t begin, std::size_t end,
                 std::int64_t first, std::int64_t width, std::int64_t keys, std::int64_t window,
                 at::Device device) {
  const auto size = static_cast<std::int64_t>(end - begin);
  const at::Tensor query_BQ = at::empty({size, width}, at::kLong),
                   seen_BQ = at::empty({size, width}, at::kLong),
                   key_BK = at::empty({size, keys}, at::kLong);
  std::vector<std::int64_t> real_queries, query_rows, real_keys, key_rows;
  auto* query = query_BQ.mutable_data_ptr<std::int64_t>();
  auto* seen = seen_BQ.mutable_data_ptr<std::int64_t>();
  auto* key = key_BK.mutable_data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < size; ++b) {
    const SegmentQueries& s = all[begin + static_cast<std::size_t>(b)];
    const std::vector<std::int64_t> path = path_of(all, begin + static_cast<std::size_t>(b));
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int64_t own = std::min(first + i, std::max<std::int64_t>(s.count - 1, 0));
      query[b * width + i] = s.count > 0 ? s.row + own : 0;
      seen[b * width + i] = s.count > 0 ? s.place(s.token + own) : 0;
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
  const at::Tensor last_BQ1 = seen_BQ.to(device).unsqueeze(2);
  const at::Tensor place_K = at::arange(keys, at::dtype(at::kLong).device(device));
  at::Tensor hidden_BQK = place_K > last_BQ1;
  if (window > 0) hidden_BQK = hidden_BQK.logical_or_(place_K <= last_BQ1 - window);
  return {query_BQ.to(device),
          key_BK.to(device),
          to_device(real_queries),
          to_device(query_rows),
          to_device(real_keys),
          to_device(key_rows),
          hidden_BQK};
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

at::Tensor probabilities(const at::Tensor& q_BGrD, const at::Tensor& k_BGKD, const Batch& batch) {
  const std::int64_t size = q_BGrD.size(0), groups = q_BGrD.size(1),
                     rows = batch.hidden_BQK.size(1), keys = batch.hidden_BQK.size(2);
  at::Tensor scores =
      at::matmul(q_BGrD, k_BGKD.transpose(2, 3)).view({size, groups, -1, rows, keys});
  scores.masked_fill_(batch.hidden_BQK.unsqueeze(1).unsqueeze(1), -INFINITY);
  return scores.softmax(-1).view({size, groups, -1, keys});
}

/// body(batch, keys of a segment in it) for all queries, a bounded number of scores at a time. All
/// batches of the same segments follow each other.
template <class Body>
void for_each_batch(std::span<const SegmentQueries> queries, std::int64_t heads,
                    std::int64_t window, at::Device device, const Body& body) {
  for (std::size_t begin = 0; begin < queries.size();) {
    std::size_t end = begin;
    std::int64_t keys = 0, most = 0;
    while (end < queries.size()) {
      const std::int64_t wider = std::max(keys, queries[end].keys()),
                         more = std::max(most, queries[end].count);
      const auto segments = static_cast<std::int64_t>(end - begin + 1);
      if (end > begin && segments * heads * wider * more > kMaxScores) break;
      keys = wider, most = more, ++end;
    }
    const auto segments = static_cast<std::int64_t>(end - begin);
    const std::int64_t block =
        std::max<std::int64_t>(1, std::min(most, kMaxScores / (segments * heads * keys)));
    for (std::int64_t first = 0; first < most; first += block) {
      body(make_batch(queries, begin, end, first, std::min(block, most - first), keys, window,
                      device));
    }
    begin = end;
  }
}

}  // namespace

at::Tensor padded_attention(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                            const at::Tensor& v_TGD, std::span<const SegmentQueries> queries,
                            std::int64_t window) {
  const std::int64_t groups = k_TGD.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q_SND.size(2)));
  at::Tensor o_SND = at::empty_like(q_SND);
  for_each_batch(queries, q_SND.size(1), window, q_SND.device(), [&](const Batch& batch) {
    const at::Tensor q = rows_by_group(q_SND, batch.query_BQ, groups).mul_(scale);
    const at::Tensor p = probabilities(q, rows_by_group(k_TGD, batch.key_BK, groups), batch);
    const at::Tensor o = at::matmul(p, rows_by_group(v_TGD, batch.key_BK, groups));
    o_SND.index_copy_(
        0, batch.query_rows_S,
        real_rows(o, batch.real_queries_S, batch.query_BQ.size(1), q_SND.scalar_type()));
  });
  return o_SND;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> padded_attention_backward(
    const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
    const at::Tensor& d_o_SND, std::span<const SegmentQueries> queries, std::int64_t window) {
  const std::int64_t groups = k_TGD.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q_SND.size(2)));
  at::Tensor dq_SND = at::empty_like(q_SND);
  // Sums over blocks of queries, so in the compute type.
  at::Tensor dk_TGD = at::zeros(k_TGD.sizes(), k_TGD.options().dtype(compute_type(k_TGD))),
             dv_TGD = at::zeros_like(dk_TGD);
  for_each_batch(queries, q_SND.size(1), window, q_SND.device(), [&](const Batch& batch) {
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
    const at::Tensor p = probabilities(q, k, batch);
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
  });
  return {dq_SND, dk_TGD.to(k_TGD.scalar_type()), dv_TGD.to(v_TGD.scalar_type())};
}

namespace {

/// Keys or values as the flash kernels read them. With their queries at the end of the paths, the
/// kernels' causal mask (aligned there) and window are the right ones.
at::Tensor along_paths(const at::Tensor& x_TGD, const FlashAttention& flash) {
  return flash.key_rows.defined() ? x_TGD.index_select(0, flash.key_rows) : x_TGD;
}

}  // namespace

bool flash_attention_fits([[maybe_unused]] const at::Tensor& q_SND,
                          [[maybe_unused]] std::span<const SegmentQueries> queries) {
#ifdef GRAPHLORA_HAS_CUDA
  if (!q_SND.is_cuda() || q_SND.scalar_type() != at::kBFloat16) return false;
  if (q_SND.size(2) % 8 != 0 || q_SND.size(2) > 256 || q_SND.size(0) == 0) return false;
  for (const SegmentQueries& s : queries)
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
                               const at::Tensor& v_TGD, std::span<const SegmentQueries> queries,
                               std::int64_t window) {
  FlashAttention result;
  std::vector<std::int32_t> offsets{0}, key_offsets{0};
  bool shares = false;
  for (const SegmentQueries& s : queries) {
    offsets.push_back(static_cast<std::int32_t>(s.begin + s.length));
    key_offsets.push_back(key_offsets.back() + static_cast<std::int32_t>(s.keys()));
    result.longest = std::max(result.longest, s.length);
    result.longest_path = std::max(result.longest_path, s.keys());
    shares = shares || s.parent >= 0;
  }
  result.offsets = at::tensor(offsets, at::kInt).to(q_TND.device());
  result.key_offsets = result.offsets;
  if (shares) {
    std::vector<std::int64_t> rows;
    for (std::size_t i = 0; i < queries.size(); ++i) {
      const auto path = path_of(queries, i);
      rows.insert(rows.end(), path.begin(), path.end());
    }
    result.key_offsets = at::tensor(key_offsets, at::kInt).to(q_TND.device());
    result.key_rows = at::tensor(rows, at::kLong).to(q_TND.device());
  }
  const std::optional<std::int64_t> left = window > 0 ? std::optional(window - 1) : std::nullopt,
                                    right =
                                        window > 0 ? std::optional<std::int64_t>(0) : std::nullopt;
  at::Tensor debug_mask;
  std::tie(result.o_TND, result.log_sum, result.random_state, result.unused, debug_mask) =
      at::_flash_attention_forward(q_TND, along_paths(k_TGD, result), along_paths(v_TGD, result),
                                   result.offsets, result.key_offsets, result.longest,
                                   result.longest_path, /*dropout_p=*/0.0,
                                   /*is_causal=*/true, /*return_debug_mask=*/false,
                                   /*scale=*/std::nullopt, left, right);
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& d_o_TND, const at::Tensor& q_TND, const at::Tensor& k_TGD,
    const at::Tensor& v_TGD, const FlashAttention& forward, std::int64_t window) {
  const std::optional<std::int64_t> left = window > 0 ? std::optional(window - 1) : std::nullopt,
                                    right =
                                        window > 0 ? std::optional<std::int64_t>(0) : std::nullopt;
  auto [dq_TND, dk, dv] = at::_flash_attention_backward(
      d_o_TND, q_TND, along_paths(k_TGD, forward), along_paths(v_TGD, forward), forward.o_TND,
      forward.log_sum, forward.offsets, forward.key_offsets, forward.longest, forward.longest_path,
      /*dropout_p=*/0.0, /*is_causal=*/true, forward.random_state, forward.unused,
      /*scale=*/std::nullopt, left, right);
  if (!forward.key_rows.defined()) return {dq_TND, dk, dv};
  const auto summed = [&](const at::Tensor& path_gradients, const at::Tensor& x_TGD) {
    return at::zeros(x_TGD.sizes(), x_TGD.options().dtype(at::kFloat))
        .index_add_(0, forward.key_rows, path_gradients.to(at::kFloat))
        .to(x_TGD.scalar_type());
  };
  return {dq_TND, summed(dk, k_TGD), summed(dv, v_TGD)};
}

}  // namespace graphlora
