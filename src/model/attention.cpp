// Shapes: T tokens, S queries, N heads, G kv heads, D head_dim.
#include "model/attention.hpp"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/device_loop.hpp"
#include "core/error.hpp"
#include "model/attention_pieces.hpp"
#include "model/attention_tiles.hpp"
#include "model/simd.hpp"
#include "model/small_matmul.hpp"

namespace graphlora {
namespace {

using simd::Compute;
using simd::kLanes;
using simd::Vec;

using Queries = SegmentQueries;

/// Keys that any query of a block sees, counted along the segment's path from its root: `begin` at
/// a vector's start, `width` padded.
struct Seen {
  std::int64_t begin, end, width;
};

/// For the block of `count` queries from the `first`.
template <class C>
GRAPHLORA_INLINE Seen seen_by(const Queries& s, std::int64_t first, std::int64_t count,
                              std::int64_t window) {
  const std::int64_t begin = s.first_seen(s.token + first, window) / kLanes<C> * kLanes<C>,
                     end = s.place(s.token + first + count);
  return {begin, end, simd::padded<C>(end - begin)};
}

using Shape = AttentionShape;
using Piece = AttentionPiece;

/// Buffers of one thread, reused from task to task. Rows hold a multiple of the lane count; what
/// lies behind the real columns is never read, or counts nothing.
template <class C>
struct Workspace {
  std::vector<C> k, k_transposed, v, v_transposed, q, scores, inverse, o, d_o, d_scores, dq, dk, dv;
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

/// Scores of one query over the keys [begin, end) → exp(score − largest), zeros elsewhere in
/// `width`.
template <class C>
GRAPHLORA_INLINE AttentionSums<C> exponentials(C* row, std::int64_t begin, std::int64_t end,
                                               std::int64_t width) {
  mask_row(row, begin, end, width);
  Vec<C> highest = simd::load(row);
  for (std::int64_t j = kLanes<C>; j < width; j += kLanes<C>) {
    const Vec<C> score = simd::load(row + j);
    highest = score > highest ? score : highest;
  }
  const C most = simd::largest(highest);
  Vec<C> sums{};
  for (std::int64_t j = 0; j < width; j += kLanes<C>) {
    const Vec<C> e = simd::exp(simd::load(row + j) - most);
    simd::store(row + j, e);
    sums += e;
  }
  const C total = simd::sum(sums);
  return {1 / total, most + std::log(total)};
}

/// Keys or values of segment i at their places along its path, in rows and, unless `columns` is
/// null, in columns too; with `path` those of its ancestors as well.
template <class T, class C>
GRAPHLORA_INLINE void load_keys(const T* from, std::int64_t kv_row, const Queries* segments,
                                std::size_t i, bool path, std::int64_t dim, C* rows,
                                std::int64_t wide, C* columns, std::int64_t keys) {
  for (const Queries* s = segments + i;; s = segments + s->parent) {
    C* own = rows + s->depth * wide;
    read_rows(from + s->begin * kv_row, kv_row, s->length, dim, C{1}, own, wide);
    if (columns != nullptr) transpose(own, wide, s->length, dim, columns + s->depth, keys);
    if (!path || s->parent < 0) return;
  }
}

/// Writes the gradients of a path's keys or values from segment i back to place `depth`, and clears
/// them for the next segments.
template <class T, class C>
GRAPHLORA_INLINE void leave_path(C* rows, std::int64_t wide, const Queries* segments,
                                 std::int64_t i, std::int64_t depth, std::int64_t dim, T* to,
                                 std::int64_t kv_row) {
  for (; i >= 0 && segments[i].depth >= depth; i = segments[i].parent) {
    const Queries& s = segments[i];
    C* own = rows + s.depth * wide;
    write_rows(own, wide, s.length, dim, C{1}, to + s.begin * kv_row, kv_row);
    std::fill_n(own, s.length * wide, C{0});
  }
}

/// One piece, one group of heads that share keys and values. The keys of a segment's path stand one
/// behind the other in the buffers; a sibling's own keys overwrite those of the one before.
/// Pointers are at the group's first head.
template <class T>
GRAPHLORA_CLONES void forward_task(const T* q, const T* k, const T* v, T* o, Compute<T>* log_sum,
                                   const Queries* segments, const Piece& piece, const Shape& shape,
                                   Workspace<Compute<T>>& w) {
  using C = Compute<T>;
  const AttentionMost most = most_of(segments, piece);
  const std::int64_t dim = shape.dim, wide = simd::padded<C>(dim),
                     keys = simd::padded<C>(most.keys);
  const std::int64_t heads = shape.heads_per_group(), q_row = shape.q_row(),
                     kv_row = shape.kv_row();
  const C scale = shape.scale<C>();
  C* k_rows = w.sized(w.k, most.keys * wide);
  C* k_columns = w.sized(w.k_transposed, dim * keys);
  C* v_rows = w.sized(w.v, most.keys * wide);
  const std::int64_t block = std::min(kQueryBlock, most.queries);
  C* q_rows = w.sized(w.q, heads * block * wide);
  C* scores = w.sized(w.scores, heads * block * keys);
  C* o_rows = w.sized(w.o, heads * block * wide);
  C* inverse = w.sized(w.inverse, heads * block);
  for (std::size_t segment = piece.first; segment < piece.end; ++segment) {
    const Queries& s = segments[segment];
    const bool path = segment == piece.first;
    load_keys(k, kv_row, segments, segment, path, dim, k_rows, wide, k_columns, keys);
    load_keys(v, kv_row, segments, segment, path, dim, v_rows, wide, static_cast<C*>(nullptr),
              keys);
    for (std::int64_t first = 0; first < s.count; first += kQueryBlock) {
      const std::int64_t count = std::min(kQueryBlock, s.count - first), rows = heads * count;
      const Seen seen = seen_by<C>(s, first, count, shape.window);
      for (std::int64_t h = 0; h < heads; ++h) {
        read_rows(q + (s.row + first) * q_row + h * dim, q_row, count, dim, scale,
                  q_rows + h * count * wide, wide);
      }
      simd::matmul(rows, seen.width, dim, q_rows, wide, 1, k_columns + seen.begin, keys, scores,
                   keys, false);
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < count; ++i) {
          const AttentionSums<C> sums =
              exponentials(scores + (h * count + i) * keys,
                           s.first_seen(s.token + first + i, shape.window) - seen.begin,
                           seen.end - seen.begin - count + i + 1, seen.width);
          inverse[h * count + i] = sums.inverse;
          log_sum[(s.row + first + i) * shape.heads + h] = sums.log_sum;
        }
      }
      simd::matmul(rows, wide, seen.end - seen.begin, scores, keys, 1, v_rows + seen.begin * wide,
                   wide, o_rows, wide, false);
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < count; ++i) {
          write_rows(o_rows + (h * count + i) * wide, wide, 1, dim, inverse[h * count + i],
                     o + (s.row + first + i) * q_row + h * dim, q_row);
        }
      }
    }
  }
}

/// A piece here is all of a tree: the gradients of shared keys add up in the buffers until the last
/// segment below has been there.
template <class T>
GRAPHLORA_CLONES void backward_task(const T* q, const T* k, const T* v, const Compute<T>* log_sum,
                                    const T* d_o, T* dq, T* dk, T* dv, const Queries* segments,
                                    const Piece& piece, const Shape& shape,
                                    Workspace<Compute<T>>& w) {
  using C = Compute<T>;
  const AttentionMost most = most_of(segments, piece);
  const std::int64_t dim = shape.dim, wide = simd::padded<C>(dim),
                     keys = simd::padded<C>(most.keys);
  const std::int64_t heads = shape.heads_per_group(), q_row = shape.q_row(),
                     kv_row = shape.kv_row();
  const C scale = shape.scale<C>();
  C* k_rows = w.sized(w.k, most.keys * wide);
  C* k_columns = w.sized(w.k_transposed, dim * keys);
  C* v_rows = w.sized(w.v, most.keys * wide);
  C* v_columns = w.sized(w.v_transposed, dim * keys);
  const std::int64_t block = std::min(kQueryBlock, most.queries);
  C* q_rows = w.sized(w.q, heads * block * wide);
  C* probabilities = w.sized(w.scores, heads * block * keys);
  C* d_scores = w.sized(w.d_scores, heads * block * keys);
  C* d_o_rows = w.sized(w.d_o, heads * block * wide);
  C* dq_rows = w.sized(w.dq, heads * block * wide);
  C* dk_rows = w.sized(w.dk, most.keys * wide);
  C* dv_rows = w.sized(w.dv, most.keys * wide);
  for (std::size_t segment = piece.first; segment < piece.end; ++segment) {
    const Queries& s = segments[segment];
    if (segment > piece.first) {
      const auto before = static_cast<std::int64_t>(segment) - 1;
      leave_path(dk_rows, wide, segments, before, s.depth, dim, dk, kv_row);
      leave_path(dv_rows, wide, segments, before, s.depth, dim, dv, kv_row);
    }
    load_keys(k, kv_row, segments, segment, false, dim, k_rows, wide, k_columns, keys);
    load_keys(v, kv_row, segments, segment, false, dim, v_rows, wide, v_columns, keys);
    for (std::int64_t first = 0; first < s.count; first += kQueryBlock) {
      const std::int64_t count = std::min(kQueryBlock, s.count - first), rows = heads * count;
      const Seen seen = seen_by<C>(s, first, count, shape.window);
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
          mask_row(p, s.first_seen(s.token + first + i, shape.window) - seen.begin,
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
  }
  const auto last = static_cast<std::int64_t>(piece.end) - 1;
  leave_path(dk_rows, wide, segments, last, 0, dim, dk, kv_row);
  leave_path(dv_rows, wide, segments, last, 0, dim, dv, kv_row);
}

/// Per head and query i over the keys j that it sees: s = q·k/√D, p = softmax(s), o_i = Σ_j
/// p_ij·v_j. Adjoint, with p recomputed from the log-sum-exp: dv_j = Σ_i p_ij·do_i; dp_ij =
/// do_i·v_j; ds_ij = p_ij·(dp_ij − Σ_j p_ij·dp_ij); dq_i = Σ_j ds_ij·k_j/√D; dk_j = Σ_i
/// ds_ij·q_i/√D; sums over i include all heads of j's group.
struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& q_SND,
                            const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                            const c10::intrusive_ptr<PackQueries>& queries, std::int64_t window) {
    const at::Tensor q = q_SND.contiguous(), k = k_TGD.contiguous(), v = v_TGD.contiguous();
    ctx->saved_data["queries"] = at::IValue::make_capsule(queries);
    ctx->saved_data["window"] = window;
    if (takes_device_path(q, Shortcut::attention))
      return forward_on_device(ctx, q, k, v, *queries, window);
    if (attention_tiles_fit(q)) {
      auto [o, log_sum] = tile_attention(q, k, v, *queries, window);
      ctx->save_for_backward({q_SND, k_TGD, v_TGD, log_sum});
      return o;
    }
    const Shape shape = attention_shape(q, k, window);
    at::Tensor o_SND = at::empty_like(q);
    at::Tensor log_sum_SN =
        at::empty({q.size(0), shape.heads},
                  q.options().dtype(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
    const std::vector<Queries>& segments = queries->segments();
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention", [&] {
      using C = Compute<scalar_t>;
      for_each_attention_task<Workspace<C>>(
          attention_pieces(segments, kForwardPieceTokens), shape.groups,
          [&](const Piece& piece, std::int64_t group, Workspace<C>& workspace) {
            const std::int64_t head = group * shape.heads_per_group();
            forward_task(q.const_data_ptr<scalar_t>() + head * shape.dim,
                         k.const_data_ptr<scalar_t>() + group * shape.dim,
                         v.const_data_ptr<scalar_t>() + group * shape.dim,
                         o_SND.data_ptr<scalar_t>() + head * shape.dim,
                         log_sum_SN.data_ptr<C>() + head, segments.data(), piece, shape, workspace);
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
    const auto& queries = static_cast<const PackQueries&>(*capsule);
    const std::int64_t window = ctx->saved_data["window"].toInt();
    if (takes_device_path(q, Shortcut::attention)) {
      const auto [dq, dk, dv] = backward_on_device(saved, d_o, q, k, v, queries, window);
      return {dq, dk, dv, at::Tensor(), at::Tensor()};
    }
    const at::Tensor& log_sum_SN = saved[3];
    if (attention_tiles_fit(q)) {
      const auto [dq, dk, dv] = tile_attention_backward(d_o, q, k, v, log_sum_SN, queries, window);
      return {dq, dk, dv, at::Tensor(), at::Tensor()};
    }
    const Shape shape = attention_shape(q, k, window);
    const std::vector<Queries>& segments = queries.segments();
    at::Tensor dq_SND = at::empty_like(q), dk_TGD = at::empty_like(k), dv_TGD = at::empty_like(v);
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention_backward", [&] {
      using C = Compute<scalar_t>;
      for_each_attention_task<Workspace<C>>(
          attention_pieces(segments, kWholeTree), shape.groups,
          [&](const Piece& piece, std::int64_t group, Workspace<C>& workspace) {
            const std::int64_t head = group * shape.heads_per_group(), at = head * shape.dim,
                               kv_at = group * shape.dim;
            backward_task(q.const_data_ptr<scalar_t>() + at, k.const_data_ptr<scalar_t>() + kv_at,
                          v.const_data_ptr<scalar_t>() + kv_at,
                          log_sum_SN.const_data_ptr<C>() + head,
                          d_o.const_data_ptr<scalar_t>() + at, dq_SND.data_ptr<scalar_t>() + at,
                          dk_TGD.data_ptr<scalar_t>() + kv_at, dv_TGD.data_ptr<scalar_t>() + kv_at,
                          segments.data(), piece, shape, workspace);
          });
    });
    return {dq_SND, dk_TGD, dv_TGD, at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor forward_on_device(torch::autograd::AutogradContext* ctx, const at::Tensor& q,
                                      const at::Tensor& k, const at::Tensor& v,
                                      const PackQueries& queries, std::int64_t window) {
    if (!flash_attention_fits(q, queries)) {
      ctx->save_for_backward({q, k, v});
      return padded_attention(q, k, v, queries, window);
    }
    const FlashAttention flash = flash_attention(q, k, v, queries, window);
    ctx->save_for_backward({q, k, v, flash.o_TND, flash.log_sum, flash.random_state, flash.unused});
    return flash.o_TND;
  }

  static std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_on_device(
      const torch::autograd::variable_list& saved, const at::Tensor& d_o, const at::Tensor& q,
      const at::Tensor& k, const at::Tensor& v, const PackQueries& queries, std::int64_t window) {
    if (saved.size() == 3) return padded_attention_backward(q, k, v, d_o, queries, window);
    return flash_attention_backward(d_o, q, k, v, {saved[3], saved[4], saved[5], saved[6]}, queries,
                                    window);
  }
};

/// The segments' places, checked: in order, parents before their children; no queries yet.
std::vector<Queries> key_places(const std::vector<Segment>& segments) {
  std::vector<Queries> result;
  std::int64_t next = 0;
  for (const Segment& s : segments) {
    TORCH_CHECK(s.begin == next && s.length > 0,
                "attention: segments must follow each other without gaps");
    next += s.length;
    std::int64_t above = std::ssize(result) - 1;  // along the path of the segment before
    while (s.parent >= 0 && above > s.parent) above = result[above].parent;
    TORCH_CHECK(s.parent < 0 || above == s.parent,
                "attention: a segment must stand behind its parent, among that one's children");
    result.push_back({.begin = s.begin,
                      .length = s.length,
                      .depth = s.parent < 0 ? 0 : result[above].keys(),
                      .parent = std::max<std::int64_t>(s.parent, -1)});
  }
  return result;
}

std::int64_t tokens_of(const std::vector<Queries>& places) {
  return places.empty() ? 0 : places.back().begin + places.back().length;
}

}  // namespace

AttentionPlan::AttentionPlan(const std::vector<Segment>& segments) {
  std::vector<Queries> places = key_places(segments);
  for (Queries& s : places) {
    s.row = s.token = s.begin;
    s.count = s.length;
  }
  tokens_ = queries_ = tokens_of(places);
  places_ = c10::make_intrusive<PackQueries>(std::move(places));
}

AttentionPlan::AttentionPlan(const std::vector<Segment>& segments,
                             std::span<const std::int64_t> tokens_S) {
  std::vector<Queries> places = key_places(segments);
  tokens_ = tokens_of(places);
  queries_ = std::ssize(tokens_S);
  for (std::int64_t row = 0; row < queries_; ++row) {
    const std::int64_t token = tokens_S[row];
    const auto after =
        std::upper_bound(places.begin(), places.end(), token,
                         [](std::int64_t place, const Queries& s) { return place < s.begin; });
    TORCH_CHECK(after != places.begin() && token < tokens_, "attention: token outside the pack");
    Queries& s = *(after - 1);
    TORCH_CHECK(s.count == 0, "attention: two scored tokens in one segment");
    s.row = row;
    s.token = token;
    s.count = 1;
  }
  places_ = c10::make_intrusive<PackQueries>(std::move(places));
}

at::Tensor attention(const at::Tensor& q_SND, const at::Tensor& k_TGD, const at::Tensor& v_TGD,
                     const AttentionPlan& plan, std::int64_t window) {
  TORCH_CHECK(q_SND.dim() == 3 && k_TGD.sizes() == v_TGD.sizes() &&
                  q_SND.size(2) == k_TGD.size(2) && k_TGD.size(1) > 0 &&
                  q_SND.size(1) % k_TGD.size(1) == 0 &&
                  q_SND.scalar_type() == k_TGD.scalar_type() &&
                  q_SND.scalar_type() == v_TGD.scalar_type() && q_SND.device() == k_TGD.device() &&
                  q_SND.device() == v_TGD.device(),
              "attention: shapes, types or devices of q, k, v do not agree");
  TORCH_CHECK(window >= 0, "attention: a negative window");
  TORCH_CHECK(q_SND.size(0) == plan.queries() && k_TGD.size(0) == plan.tokens(),
              "attention: ", q_SND.size(0), " queries and ", k_TGD.size(0), " keys, the plan has ",
              plan.queries(), " and ", plan.tokens());
  return Attention::apply(q_SND, k_TGD, v_TGD, plan.places(), window);
}

}  // namespace graphlora
