// Shapes: T tokens, S scored tokens, N heads, G kv heads, D head_dim.
#include "model/attention.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/device_loop.hpp"
#include "core/error.hpp"
#include "model/attention_device.hpp"
#include "model/simd.hpp"
#include "model/small_matmul.hpp"

namespace graphlora {
namespace {

using simd::Compute;
using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kQueryBlock =
    32;  // queries whose scores are in memory at once, times the heads of a group

using Queries = SegmentQueries;

/// All segments of a call have one window.
std::int64_t window_of(const std::vector<Queries>& queries) {
  return queries.empty() ? 0 : queries.front().window;
}

/// Keys that any query of a block sees, counted from the segment's first: `begin` at a vector's
/// start, `width` padded.
struct Seen {
  std::int64_t begin, end, width;
};

/// For the block of `count` queries from the `first`.
template <class C>
GRAPHLORA_INLINE Seen seen_by(const Queries& s, std::int64_t first, std::int64_t count) {
  const std::int64_t begin = s.first_seen(s.token + first) / kLanes<C> * kLanes<C>,
                     end = s.token + first + count - s.key_begin;
  return {begin, end, simd::padded<C>(end - begin)};
}

struct Shape {
  std::int64_t heads, groups, dim;
  std::int64_t heads_per_group() const { return heads / groups; }
};

/// Buffers of one thread, reused from task to task. Rows hold a multiple of the lane count; what
/// lies behind the real columns is zero or never read.
template <class C>
struct Workspace {
  std::vector<C> k, k_transposed, v, v_transposed, q, scores, o, d_o, d_scores, dq, dk, dv;
  static C* sized(std::vector<C>& buffer, std::int64_t size) {
    buffer.assign(size, C{0});
    return buffer.data();
  }
};

/// Rows of one head: to[i·to_row + d] = from[i·from_row + d]·factor.
template <class T, class C>
GRAPHLORA_INLINE void read_rows(const T* from, std::int64_t from_row, std::int64_t rows,
                                std::int64_t dim, C factor, C* to, std::int64_t to_row) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t d = 0; d < dim; d += kLanes<C>) {
      simd::store(to + i * to_row + d, simd::load(from + i * from_row + d, dim - d) * factor);
    }
  }
}

template <class T, class C>
GRAPHLORA_INLINE void write_rows(const C* from, std::int64_t from_row, std::int64_t rows,
                                 std::int64_t dim, C factor, T* to, std::int64_t to_row) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t d = 0; d < dim; d += kLanes<C>) {
      simd::store(to + i * to_row + d, simd::load(from + i * from_row + d) * factor, dim - d);
    }
  }
}

/// to[d·to_row + i] = from[i·from_row + d].
template <class C>
GRAPHLORA_INLINE void transpose(const C* from, std::int64_t from_row, std::int64_t rows,
                                std::int64_t dim, C* to, std::int64_t to_row) {
  for (std::int64_t i0 = 0; i0 < rows; i0 += 16) {
    for (std::int64_t d = 0; d < dim; ++d) {
      for (std::int64_t i = i0; i < std::min(i0 + 16, rows); ++i)
        to[d * to_row + i] = from[i * from_row + d];
    }
  }
}

/// −∞ outside of [begin, end) of a row of `width`.
template <class C>
GRAPHLORA_INLINE void mask_row(C* row, std::int64_t begin, std::int64_t end, std::int64_t width) {
  std::fill(row, row + begin, -std::numeric_limits<C>::infinity());
  std::fill(row + end, row + width, -std::numeric_limits<C>::infinity());
}

/// Scores of one query over the keys [begin, end) → probabilities, zeros elsewhere in `width`.
/// Returns the log-sum-exp.
template <class C>
GRAPHLORA_INLINE C softmax_row(C* row, std::int64_t begin, std::int64_t end, std::int64_t width) {
  C most = row[begin];
  for (std::int64_t j = begin + 1; j < end; ++j) most = std::max(most, row[j]);
  mask_row(row, begin, end, width);
  Vec<C> sums{};
  for (std::int64_t j = 0; j < width; j += kLanes<C>) {
    const Vec<C> e = simd::exp(simd::load(row + j) - most);
    simd::store(row + j, e);
    sums += e;
  }
  const C total = simd::sum(sums);
  for (std::int64_t j = 0; j < width; j += kLanes<C>)
    simd::store(row + j, simd::load(row + j) / total);
  return most + std::log(total);
}

/// One segment, one group of heads that share keys and values. Pointers are at the group's first
/// head.
template <class T>
GRAPHLORA_CLONES void forward_task(const T* q, const T* k, const T* v, T* o, Compute<T>* log_sum,
                                   const Queries& s, const Shape& shape, Workspace<Compute<T>>& w) {
  using C = Compute<T>;
  const std::int64_t dim = shape.dim, wide = simd::padded<C>(dim), keys = simd::padded<C>(s.keys);
  const std::int64_t heads = shape.heads_per_group(), q_row = shape.heads * dim,
                     kv_row = shape.groups * dim;
  const C scale = 1 / std::sqrt(static_cast<C>(dim));
  C* k_rows = w.sized(w.k, s.keys * wide);
  C* k_columns = w.sized(w.k_transposed, dim * keys);
  C* v_rows = w.sized(w.v, s.keys * wide);
  read_rows(k + s.key_begin * kv_row, kv_row, s.keys, dim, C{1}, k_rows, wide);
  transpose(k_rows, wide, s.keys, dim, k_columns, keys);
  read_rows(v + s.key_begin * kv_row, kv_row, s.keys, dim, C{1}, v_rows, wide);
  const std::int64_t block = std::min(kQueryBlock, s.count);
  C* q_rows = w.sized(w.q, heads * block * wide);
  C* scores = w.sized(w.scores, heads * block * keys);
  C* o_rows = w.sized(w.o, heads * block * wide);
  for (std::int64_t first = 0; first < s.count; first += kQueryBlock) {
    const std::int64_t count = std::min(kQueryBlock, s.count - first), rows = heads * count;
    const Seen seen = seen_by<C>(s, first, count);
    for (std::int64_t h = 0; h < heads; ++h) {
      read_rows(q + (s.row + first) * q_row + h * dim, q_row, count, dim, scale,
                q_rows + h * count * wide, wide);
    }
    simd::matmul(rows, seen.width, dim, q_rows, wide, 1, k_columns + seen.begin, keys, scores, keys,
                 false);
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < count; ++i) {
        log_sum[(s.row + first + i) * shape.heads + h] = softmax_row(
            scores + (h * count + i) * keys, s.first_seen(s.token + first + i) - seen.begin,
            seen.end - seen.begin - count + i + 1, seen.width);
      }
    }
    simd::matmul(rows, wide, seen.end - seen.begin, scores, keys, 1, v_rows + seen.begin * wide,
                 wide, o_rows, wide, false);
    for (std::int64_t h = 0; h < heads; ++h) {
      write_rows(o_rows + h * count * wide, wide, count, dim, C{1},
                 o + (s.row + first) * q_row + h * dim, q_row);
    }
  }
}

template <class T>
GRAPHLORA_CLONES void backward_task(const T* q, const T* k, const T* v, const Compute<T>* log_sum,
                                    const T* d_o, T* dq, T* dk, T* dv, const Queries& s,
                                    const Shape& shape, Workspace<Compute<T>>& w) {
  using C = Compute<T>;
  const std::int64_t dim = shape.dim, wide = simd::padded<C>(dim), keys = simd::padded<C>(s.keys);
  const std::int64_t heads = shape.heads_per_group(), q_row = shape.heads * dim,
                     kv_row = shape.groups * dim;
  const C scale = 1 / std::sqrt(static_cast<C>(dim));
  C* k_rows = w.sized(w.k, s.keys * wide);
  C* k_columns = w.sized(w.k_transposed, dim * keys);
  C* v_rows = w.sized(w.v, s.keys * wide);
  C* v_columns = w.sized(w.v_transposed, dim * keys);
  read_rows(k + s.key_begin * kv_row, kv_row, s.keys, dim, C{1}, k_rows, wide);
  transpose(k_rows, wide, s.keys, dim, k_columns, keys);
  read_rows(v + s.key_begin * kv_row, kv_row, s.keys, dim, C{1}, v_rows, wide);
  transpose(v_rows, wide, s.keys, dim, v_columns, keys);
  const std::int64_t block = std::min(kQueryBlock, s.count);
  C* q_rows = w.sized(w.q, heads * block * wide);
  C* probabilities = w.sized(w.scores, heads * block * keys);
  C* d_scores = w.sized(w.d_scores, heads * block * keys);
  C* d_o_rows = w.sized(w.d_o, heads * block * wide);
  C* dq_rows = w.sized(w.dq, heads * block * wide);
  C* dk_rows = w.sized(w.dk, s.keys * wide);
  C* dv_rows = w.sized(w.dv, s.keys * wide);
  for (std::int64_t first = 0; first < s.count; first += kQueryBlock) {
    const std::int64_t count = std::min(kQueryBlock, s.count - first), rows = heads * count;
    const Seen seen = seen_by<C>(s, first, count);
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t at = (s.row + first) * q_row + h * dim;
      read_rows(q + at, q_row, count, dim, scale, q_rows + h * count * wide, wide);
      read_rows(d_o + at, q_row, count, dim, C{1}, d_o_rows + h * count * wide, wide);
    }
    simd::matmul(rows, seen.width, dim, q_rows, wide, 1, k_columns + seen.begin, keys,
                 probabilities, keys, false);
    simd::matmul(rows, seen.width, dim, d_o_rows, wide, 1, v_columns + seen.begin, keys, d_scores,
                 keys, false);
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < count; ++i) {
        C* p = probabilities + (h * count + i) * keys;
        C* ds = d_scores + (h * count + i) * keys;
        mask_row(p, s.first_seen(s.token + first + i) - seen.begin,
                 seen.end - seen.begin - count + i + 1, seen.width);
        const C lse = log_sum[(s.row + first + i) * shape.heads + h];
        Vec<C> along{};
        for (std::int64_t j = 0; j < seen.width; j += kLanes<C>) {
          const Vec<C> probability = simd::exp(simd::load(p + j) - lse);
          simd::store(p + j, probability);
          along += probability * simd::load(ds + j);
        }
        const C delta = simd::sum(along);
        for (std::int64_t j = 0; j < seen.width; j += kLanes<C>) {
          simd::store(ds + j, simd::load(p + j) * (simd::load(ds + j) - delta));
        }
      }
    }
    const std::int64_t span = seen.end - seen.begin, from = seen.begin * wide;
    simd::matmul(rows, wide, span, d_scores, keys, 1, k_rows + from, wide, dq_rows, wide, false);
    simd::matmul(span, wide, rows, d_scores, 1, keys, q_rows, wide, dk_rows + from, wide, true);
    simd::matmul(span, wide, rows, probabilities, 1, keys, d_o_rows, wide, dv_rows + from, wide,
                 true);
    for (std::int64_t h = 0; h < heads; ++h) {
      write_rows(dq_rows + h * count * wide, wide, count, dim, scale,
                 dq + (s.row + first) * q_row + h * dim, q_row);
    }
  }
  write_rows(dk_rows, wide, s.keys, dim, C{1}, dk + s.key_begin * kv_row, kv_row);
  write_rows(dv_rows, wide, s.keys, dim, C{1}, dv + s.key_begin * kv_row, kv_row);
}

Shape shape_of(const at::Tensor& q, const at::Tensor& k) {
  return {q.size(1), k.size(1), q.size(2)};
}

/// Runs task(segment's queries, group, workspace) for all segments and groups in parallel.
template <class C, class Task>
void for_each_task(const std::vector<Queries>& queries, std::int64_t groups, const Task& task) {
  const auto tasks = static_cast<std::int64_t>(queries.size()) * groups;
  at::parallel_for(0, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    Workspace<C> workspace;
    for (std::int64_t i = begin; i < end; ++i) task(queries[i / groups], i % groups, workspace);
  });
}

struct QueryList : torch::CustomClassHolder {
  std::vector<Queries> queries;
};

/// Per head and query i over the keys j that it sees: s = q·k/√D, p = softmax(s), o_i = Σ_j
/// p_ij·v_j. Adjoint, with p recomputed from the log-sum-exp: dv_j = Σ_i p_ij·do_i; dp_ij =
/// do_i·v_j; ds_ij = p_ij·(dp_ij − Σ_j p_ij·dp_ij); dq_i = Σ_j ds_ij·k_j/√D; dk_j = Σ_i
/// ds_ij·q_i/√D; sums over i include all heads of j's group.
struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& q_SND,
                            const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                            const c10::intrusive_ptr<QueryList>& list) {
    const at::Tensor q = q_SND.contiguous(), k = k_TGD.contiguous(), v = v_TGD.contiguous();
    ctx->saved_data["queries"] = at::IValue::make_capsule(list);
    if (takes_device_path(q)) return forward_on_device(ctx, q, k, v, list->queries);
    const Shape shape = shape_of(q, k);
    at::Tensor o_SND = at::empty_like(q);
    at::Tensor log_sum_SN =
        at::empty({q.size(0), shape.heads},
                  q.options().dtype(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention", [&] {
      using C = Compute<scalar_t>;
      for_each_task<C>(list->queries, shape.groups,
                       [&](const Queries& s, std::int64_t group, Workspace<C>& workspace) {
                         const std::int64_t head = group * shape.heads_per_group();
                         forward_task(q.const_data_ptr<scalar_t>() + head * shape.dim,
                                      k.const_data_ptr<scalar_t>() + group * shape.dim,
                                      v.const_data_ptr<scalar_t>() + group * shape.dim,
                                      o_SND.data_ptr<scalar_t>() + head * shape.dim,
                                      log_sum_SN.data_ptr<C>() + head, s, shape, workspace);
                       });
    });
    ctx->save_for_backward({q_SND, k_TGD, v_TGD, log_sum_SN});
    return o_SND;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor q = saved[0].contiguous(), k = saved[1].contiguous(),
                     v = saved[2].contiguous();
    const at::Tensor d_o = gradients[0].contiguous();
    const auto capsule = ctx->saved_data["queries"].toCapsule();
    const auto& queries = static_cast<const QueryList&>(*capsule).queries;
    if (takes_device_path(q)) {
      const auto [dq, dk, dv] = backward_on_device(ctx, d_o, q, k, v, queries);
      return {dq, dk, dv, at::Tensor()};
    }
    const at::Tensor& log_sum_SN = saved[3];
    const Shape shape = shape_of(q, k);
    at::Tensor dq_SND = at::empty_like(q), dk_TGD = at::empty_like(k), dv_TGD = at::empty_like(v);
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention_backward", [&] {
      using C = Compute<scalar_t>;
      for_each_task<C>(
          queries, shape.groups,
          [&](const Queries& s, std::int64_t group, Workspace<C>& workspace) {
            const std::int64_t head = group * shape.heads_per_group(), at = head * shape.dim,
                               kv_at = group * shape.dim;
            backward_task(q.const_data_ptr<scalar_t>() + at, k.const_data_ptr<scalar_t>() + kv_at,
                          v.const_data_ptr<scalar_t>() + kv_at,
                          log_sum_SN.const_data_ptr<C>() + head,
                          d_o.const_data_ptr<scalar_t>() + at, dq_SND.data_ptr<scalar_t>() + at,
                          dk_TGD.data_ptr<scalar_t>() + kv_at, dv_TGD.data_ptr<scalar_t>() + kv_at,
                          s, shape, workspace);
          });
    });
    return {dq_SND, dk_TGD, dv_TGD, at::Tensor()};
  }

 private:
  static at::Tensor forward_on_device(torch::autograd::AutogradContext* ctx, const at::Tensor& q,
                                      const at::Tensor& k, const at::Tensor& v,
                                      const std::vector<Queries>& queries) {
    if (!flash_attention_fits(q, queries)) {
      ctx->save_for_backward({q, k, v});
      return padded_attention(q, k, v, queries, window_of(queries));
    }
    const FlashAttention flash = flash_attention(q, k, v, queries, window_of(queries));
    ctx->save_for_backward(
        {q, k, v, flash.o_TND, flash.log_sum, flash.offsets, flash.random_state, flash.unused});
    ctx->saved_data["longest"] = flash.longest;
    return flash.o_TND;
  }

  static std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_on_device(
      torch::autograd::AutogradContext* ctx, const at::Tensor& d_o, const at::Tensor& q,
      const at::Tensor& k, const at::Tensor& v, const std::vector<Queries>& queries) {
    const auto saved = ctx->get_saved_variables();
    if (saved.size() == 3)
      return padded_attention_backward(q, k, v, d_o, queries, window_of(queries));
    const FlashAttention flash{saved[3], saved[4], saved[5],
                               saved[6], saved[7], ctx->saved_data["longest"].toInt()};
    return flash_attention_backward(d_o, q, k, v, flash, window_of(queries));
  }
};

/// The segments' key ranges, checked: without parents, in order, covering all T tokens.
std::vector<Queries> key_ranges(std::span<const Segment> segments, std::int64_t tokens,
                                std::int64_t window) {
  TORCH_CHECK(window >= 0, "attention: a negative window");
  std::vector<Queries> result;
  std::int64_t next = 0;
  for (const Segment& s : segments) {
    if (s.parent >= 0)
      throw ConfigError(
          "attention: segments with a parent (shared prefixes) are not supported yet");
    TORCH_CHECK(s.begin == next && s.length > 0,
                "attention: segments must follow each other without gaps");
    next += s.length;
    result.push_back({.key_begin = s.begin, .keys = s.length, .window = window});
  }
  TORCH_CHECK(next == tokens, "attention: segments hold ", next, " tokens, the pack ", tokens);
  return result;
}

void check_shapes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(2) == k.size(2) &&
                  k.size(1) > 0 && q.size(1) % k.size(1) == 0 &&
                  q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type() &&
                  q.device() == k.device() && q.device() == v.device(),
              "attention: shapes, types or devices of q, k, v do not agree");
}

}  // namespace

at::Tensor attention(const at::Tensor& q_TND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                     std::span<const Segment> segments, std::int64_t window) {
  check_shapes(q_TND, k_TGD, v_TGD);
  TORCH_CHECK(q_TND.size(0) == k_TGD.size(0), "attention: queries and keys differ in number");
  auto list = c10::make_intrusive<QueryList>();
  list->queries = key_ranges(segments, k_TGD.size(0), window);
  for (Queries& s : list->queries) {
    s.row = s.token = s.key_begin;
    s.count = s.keys;
  }
  return Attention::apply(q_TND, k_TGD, v_TGD, list);
}

at::Tensor attention_at(const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                        std::span<const Segment> segments, std::span<const std::int64_t> tokens_S,
                        std::int64_t window) {
  check_shapes(q_SND, k_TGD, v_TGD);
  TORCH_CHECK(q_SND.size(0) == static_cast<std::int64_t>(tokens_S.size()),
              "attention: queries and tokens differ in number");
  auto list = c10::make_intrusive<QueryList>();
  list->queries = key_ranges(segments, k_TGD.size(0), window);
  for (std::size_t row = 0; row < tokens_S.size(); ++row) {
    const auto after =
        std::upper_bound(list->queries.begin(), list->queries.end(), tokens_S[row],
                         [](std::int64_t token, const Queries& s) { return token < s.key_begin; });
    TORCH_CHECK(after != list->queries.begin() && tokens_S[row] < k_TGD.size(0),
                "attention: token outside the pack");
    Queries& s = *(after - 1);
    TORCH_CHECK(s.count == 0, "attention: two scored tokens in one segment");
    s.row = static_cast<std::int64_t>(row);
    s.token = tokens_S[row];
    s.count = 1;
  }
  return Attention::apply(q_SND, k_TGD, v_TGD, list);
}

}  // namespace graphlora
