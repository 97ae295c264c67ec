// Shapes: R rows (queries of a block, times the heads of a group), D head_dim.
//
// The unit multiplies a (rows × depth) by b (depth × columns), where b's rows stand in pairs: word
// (i, c) holds b's elements (2i, c) and (2i + 1, c). Keys are taken in blocks of kBlock, so that
// few shapes occur, for each of which LibTorch makes code once in each thread.
#include "model/attention_tiles.hpp"

#include <memory>
#include <utility>
#include <vector>

#include "core/ceil_div.hpp"
#include "core/shortcuts.hpp"
#include "model/attention_pieces.hpp"
#include "model/matrix_unit.hpp"

namespace graphlora {
namespace {

using at::BFloat16;
using matrix_unit::kDepth;
using matrix_unit::multiply;
using matrix_unit::store;
using simd::kLanes;
using simd::Vec;

constexpr std::int64_t kLane = kLanes<float>;
constexpr std::int64_t kBlock = matrix_unit::kColumns;  // keys of a block

constexpr std::int64_t blocks_of(std::int64_t keys) { return ceil_div(keys, kBlock); }
constexpr std::int64_t whole_depth(std::int64_t rows) { return ceil_div(rows, kDepth) * kDepth; }

/// Buffers of one thread, on cache lines, reused from task to task. What is read has been
/// written by the task.
struct Workspace {
  template <class T>
  class Buffer {
   public:
    T* sized(std::int64_t size) {
      if (std::ssize(numbers_) < size + kLine) numbers_.resize(size + kLine);
      void* place = numbers_.data();
      std::size_t space = numbers_.size() * sizeof(T);
      return static_cast<T*>(std::align(64, size * sizeof(T), place, space));
    }

   private:
    static constexpr std::int64_t kLine = 64 / sizeof(T);
    std::vector<T> numbers_;
  };
  Buffer<BFloat16> k_columns, v_columns, k_rows, v_rows, q, d_o, q_columns, d_o_columns, p, ds,
      pairs;
  Buffer<float> scores, d_scores, o, inverse, dk, dv, rows;

  matrix_unit::Use use;
};

/// Lanes of b with and without a bit of their number, for those of a without and with it.
template <std::size_t kBit, class V, std::size_t... kLanesOf>
GRAPHLORA_INLINE void exchange(V& a, V& b, std::index_sequence<kLanesOf...>) {
  const V low = __builtin_shufflevector(
      a, b, ((kLanesOf & kBit) == 0 ? kLanesOf : kLane + kLanesOf - kBit)...);
  b = __builtin_shufflevector(a, b,
                              ((kLanesOf & kBit) == 0 ? kLanesOf + kBit : kLane + kLanesOf)...);
  a = low;
}

/// 16 rows of as many words as their columns, in registers.
template <std::size_t... kBits>
GRAPHLORA_INLINE void transpose_tile(Vec<float> (&rows)[kLane], std::index_sequence<kBits...>) {
  const auto stage = [&]<std::size_t kBit>() __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLane; ++i) {
      if ((i & kBit) == 0)
        exchange<kBit>(rows[i], rows[i + kBit], std::make_index_sequence<kLane>{});
    }
  };
  (stage.template operator()<kBits>(), ...);
}

/// to[c·to_row + r] = from[r·from_row + c], words of four bytes.
GRAPHLORA_INLINE void transpose(const float* from, std::int64_t from_row, std::int64_t rows,
                                std::int64_t columns, float* to, std::int64_t to_row) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kLane) {
    const std::int64_t high = std::min(kLane, rows - r0);
    for (std::int64_t c0 = 0; c0 < columns; c0 += kLane) {
      const std::int64_t wide = std::min(kLane, columns - c0);
      Vec<float> tile[kLane] = {};
#pragma GCC unroll 16
      for (std::int64_t r = 0; r < kLane; ++r)
        if (r < high) tile[r] = simd::load(from + (r0 + r) * from_row + c0, wide);
      transpose_tile(tile, std::index_sequence<8, 4, 2, 1>{});
#pragma GCC unroll 16
      for (std::int64_t c = 0; c < kLane; ++c)
        if (c < wide) simd::store(to + (c0 + c) * to_row + r0, tile[c], high);
    }
  }
}

/// Pairs of bf16 numbers as words that are moved, never computed with.
inline const float* words(const BFloat16* pairs) { return reinterpret_cast<const float*>(pairs); }
inline float* words(BFloat16* pairs) { return reinterpret_cast<float*>(pairs); }

/// Two rows as one of pairs.
GRAPHLORA_INLINE void pair_rows(const BFloat16* even, const BFloat16* odd, std::int64_t columns,
                                BFloat16* to) {
  for (std::int64_t c = 0; c < columns; c += kLane) {
    simd::VecU16 low, high;
    std::memcpy(&low, even + c, sizeof low);
    std::memcpy(&high, odd + c, sizeof high);
    const simd::VecU32 pairs = __builtin_convertvector(low, simd::VecU32) |
                               __builtin_convertvector(high, simd::VecU32) << 16;
    std::memcpy(to + 2 * c, &pairs, sizeof pairs);
  }
}

/// Columns of a head are multiplied kBlock at a time, each with its own packed operand:
/// visit(first column, how many).
template <class Visit>
GRAPHLORA_INLINE void for_each_column_block(std::int64_t dim, const Visit& visit) {
  for (std::int64_t c = 0; c < dim; c += kBlock) visit(c, std::min(kBlock, dim - c));
}

/// A path's keys or values as both operands of products: in columns (D × keys), and in rows
/// (keys × D). Key j is in block j / kBlock of each, kBlock·D numbers.
struct Operands {
  BFloat16 *columns, *rows;  // either may be null
  std::int64_t dim;

  /// Tokens at `from`, to places [place, place + count).
  GRAPHLORA_INLINE void put(const BFloat16* from, std::int64_t kv_row, std::int64_t place,
                            std::int64_t count) const {
    if (columns != nullptr) {
      for (std::int64_t j = place; j < place + count;) {
        const std::int64_t in_block = j % kBlock,
                           fit = std::min(kBlock - in_block, place + count - j);
        transpose(words(from + (j - place) * kv_row), kv_row / 2, fit, dim / 2,
                  words(columns + (j - in_block) * dim) + in_block, kBlock);
        j += fit;
      }
    }
    if (rows == nullptr) return;
    std::int64_t j = place;
    if (j % 2 == 1) put_single(from, j++);
    for (; j + 1 < place + count; j += 2) {
      const BFloat16* even = from + (j - place) * kv_row;
      for_each_column_block(
          dim, [&](std::int64_t c, std::int64_t wide) __attribute__((always_inline)) {
            pair_rows(even + c, even + kv_row + c, wide, pairs(j, c, wide));
          });
    }
    if (j < place + count) put_single(from + (j - place) * kv_row, j);
  }

  /// Rows behind the last of `keys` in its block: of no weight, but multiplied.
  GRAPHLORA_INLINE void end_at(std::int64_t keys) const {
    if (rows == nullptr) return;
    std::int64_t j = keys;
    if (j % 2 == 1) put_single(nullptr, j++);
    for (; j % kBlock != 0; j += 2) {
      for_each_column_block(dim, [&](std::int64_t c, std::int64_t wide) {
        std::fill_n(pairs(j, c, wide), 2 * wide, BFloat16(0));
      });
    }
  }

 private:
  /// Of keys j and j + 1, j even: their columns from c on, `wide` of which are in one operand.
  GRAPHLORA_INLINE BFloat16* pairs(std::int64_t j, std::int64_t c, std::int64_t wide) const {
    const std::int64_t in_block = j % kBlock;
    return rows + (j - in_block) * dim + kBlock * c + in_block * wide;
  }
  /// One key beside the one it shares words with; null: zeros.
  GRAPHLORA_INLINE void put_single(const BFloat16* from, std::int64_t j) const {
    for_each_column_block(dim, [&](std::int64_t c, std::int64_t wide) {
      BFloat16* to = pairs(j - j % 2, c, wide) + j % 2;
      for (std::int64_t d = 0; d < wide; ++d)
        to[2 * d] = from == nullptr ? BFloat16(0) : from[c + d];
    });
  }
};

/// One query's numbers over blocks of keys, each block `stride` numbers behind the one before; it
/// sees [begin, end).
struct Span {
  std::int64_t begin, end, blocks, stride;

  std::int64_t first_vector() const { return begin / kLane; }
  std::int64_t last_vector() const { return (end + kLane - 1) / kLane; }
  GRAPHLORA_INLINE std::int64_t at(std::uint64_t vector) const {
    constexpr std::uint64_t kVectors = kBlock / kLane;
    return static_cast<std::int64_t>(vector / kVectors) * stride +
           static_cast<std::int64_t>(vector % kVectors) * kLane;
  }
  /// Replaces what is not seen in vectors that are seen in part.
  GRAPHLORA_INLINE void hide(float* row, float with) const {
    if (begin % kLane != 0) hide(row, first_vector(), with);
    if (end % kLane != 0) hide(row, last_vector() - 1, with);
  }
  /// Zeros in vectors of which nothing is seen.
  GRAPHLORA_INLINE void clear(BFloat16* row) const {
    constexpr std::int64_t kBytes = kLane * sizeof(BFloat16);
    for (std::int64_t v = 0; v < first_vector(); ++v) std::memset(row + at(v), 0, kBytes);
    for (std::int64_t v = last_vector(); v < blocks * (kBlock / kLane); ++v)
      std::memset(row + at(v), 0, kBytes);
  }

 private:
  GRAPHLORA_INLINE void hide(float* row, std::int64_t vector, float with) const {
    constexpr simd::VecI32 kLaneNumbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const simd::VecI32 key = kLaneNumbers + static_cast<std::int32_t>(vector * kLane);
    const auto seen =
        (key >= static_cast<std::int32_t>(begin)) & (key < static_cast<std::int32_t>(end));
    float* part = row + at(vector);
    simd::store(part, seen ? simd::load(part) : simd::broadcast(with));
  }
};

/// Keys that any query of a block of queries sees, along the path: from `begin`, where a block of
/// keys begins, to `end`.
struct Seen {
  std::int64_t begin, end;
  std::int64_t blocks() const { return blocks_of(end - begin); }
  /// What the segment's i-th query sees of them.
  GRAPHLORA_INLINE Span span(const SegmentQueries& s, std::int64_t i, std::int64_t window,
                             std::int64_t stride) const {
    return {s.first_seen(s.token + i, window) - begin, s.place(s.token + i) + 1 - begin, blocks(),
            stride};
  }
};

GRAPHLORA_INLINE Seen seen_by(const SegmentQueries& s, std::int64_t first, std::int64_t count,
                              std::int64_t window) {
  return {s.first_seen(s.token + first, window) / kBlock * kBlock,
          s.place(s.token + first + count)};
}

/// p = exp(scale·(score − largest)), zeros where nothing is seen.
GRAPHLORA_MATRIX_UNIT_INLINE AttentionSums<float> exponentials(float* scores, const Span& span,
                                                               float scale, BFloat16* p) {
  const std::int64_t first = span.first_vector(), last = span.last_vector();
  span.hide(scores, -std::numeric_limits<float>::infinity());
  Vec<float> highest = simd::load(scores + span.at(first));
  for (std::int64_t v = first + 1; v < last; ++v) {
    const Vec<float> score = simd::load(scores + span.at(v));
    highest = score > highest ? score : highest;
  }
  const float most = simd::largest(highest);
  Vec<float> sums{};
  for (std::int64_t v = first; v < last; ++v) {
    const Vec<float> e = simd::exp((simd::load(scores + span.at(v)) - most) * scale);
    store(p + span.at(v), e);
    sums += e;
  }
  span.clear(p);
  const float total = simd::sum(sums);
  return {1 / total, most * scale + std::log(total)};
}

/// From scores and the probabilities' gradients: probabilities p and the gradients ds of the scaled
/// scores. `scores` becomes p in fp32.
GRAPHLORA_MATRIX_UNIT_INLINE void gradients(float* scores, float* d_p, const Span& span,
                                            float scale, float log_sum, BFloat16* p, BFloat16* ds) {
  const std::int64_t first = span.first_vector(), last = span.last_vector();
  span.hide(scores, -std::numeric_limits<float>::infinity());
  span.hide(d_p, 0);
  Vec<float> along{};
  for (std::int64_t v = first; v < last; ++v) {
    const std::int64_t at = span.at(v);
    const Vec<float> probability = simd::exp(simd::load(scores + at) * scale - log_sum);
    simd::store(scores + at, probability);
    store(p + at, probability);
    along += probability * simd::load(d_p + at);
  }
  const float delta = simd::sum(along);
  for (std::int64_t v = first; v < last; ++v) {
    const std::int64_t at = span.at(v);
    store(ds + at, simd::load(scores + at) * (simd::load(d_p + at) - delta));
  }
  span.clear(p);
  span.clear(ds);
}

/// Rows of queries, or of their outputs' gradients, head by head; zeros up to `padded`.
GRAPHLORA_INLINE void read_rows(const BFloat16* from, std::int64_t q_row, std::int64_t heads,
                                std::int64_t count, std::int64_t dim, std::int64_t padded,
                                BFloat16* to) {
  constexpr std::int64_t kBytes = kDepth * sizeof(BFloat16);
  const BFloat16* const end = to + padded * dim;
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t d = 0; d < dim; d += kDepth, to += kDepth)
        std::memcpy(to, from + i * q_row + h * dim + d, kBytes);
    }
  }
  for (; to < end; to += kDepth) std::memset(to, 0, kBytes);
}

GRAPHLORA_MATRIX_UNIT_INLINE void write_row(const float* from, std::int64_t dim, float factor,
                                            BFloat16* to) {
  for (std::int64_t d = 0; d < dim; d += kLane) store(to + d, simd::load(from + d) * factor);
}

/// to (columns × rows) = from (rows × columns) transposed; `pairs`: room for as many numbers.
GRAPHLORA_INLINE void transpose_rows(const BFloat16* from, std::int64_t rows, std::int64_t columns,
                                     BFloat16* pairs, BFloat16* to) {
  for (std::int64_t r = 0; r < rows; r += 2)
    pair_rows(from + r * columns, from + (r + 1) * columns, columns, pairs + r * columns);
  transpose(words(pairs), columns, rows / 2, columns, words(to), rows / 2);
}

/// One piece, one group of heads that share keys and values. The keys of a segment's path stand one
/// behind the other in the operands; a sibling's own keys overwrite those of the one before.
/// Pointers are at the group's first head.
GRAPHLORA_MATRIX_UNIT void forward_task(const BFloat16* q, const BFloat16* k, const BFloat16* v,
                                        BFloat16* o, float* log_sum, const SegmentQueries* segments,
                                        const AttentionPiece& piece, const AttentionShape& shape,
                                        Workspace& w) {
  const AttentionMost most = most_of(segments, piece);
  const std::int64_t dim = shape.dim, heads = shape.heads_per_group(), q_row = shape.q_row(),
                     kv_row = shape.kv_row(), blocks = blocks_of(most.keys),
                     wide = whole_depth(heads * std::min(kQueryBlock, most.queries));
  const auto scale = shape.scale<float>();
  const Operands keys{w.k_columns.sized(blocks * kBlock * dim), nullptr, dim};
  const Operands values{nullptr, w.v_rows.sized(blocks * kBlock * dim), dim};
  BFloat16* q_rows = w.q.sized(wide * dim);
  float* scores = w.scores.sized(blocks * wide * kBlock);
  BFloat16* p = w.p.sized(blocks * wide * kBlock);
  float* o_rows = w.o.sized(wide * dim);
  float* inverse = w.inverse.sized(wide);
  for (std::size_t segment = piece.first; segment < piece.end; ++segment) {
    const SegmentQueries& s = segments[segment];
    for (const SegmentQueries* part = &s;; part = segments + part->parent) {
      keys.put(k + part->begin * kv_row, kv_row, part->depth, part->length);
      values.put(v + part->begin * kv_row, kv_row, part->depth, part->length);
      if (segment > piece.first || part->parent < 0) break;
    }
    values.end_at(s.keys());
    for (std::int64_t first = 0; first < s.count; first += kQueryBlock) {
      const std::int64_t count = std::min(kQueryBlock, s.count - first),
                         padded = whole_depth(heads * count), stride = padded * kBlock;
      const Seen seen = seen_by(s, first, count, shape.window);
      read_rows(q + (s.row + first) * q_row, q_row, heads, count, dim, padded, q_rows);
      for (std::int64_t block = 0; block < seen.blocks(); ++block)
        multiply(padded, kBlock, dim, q_rows, dim,
                 keys.columns + (seen.begin + block * kBlock) * dim, scores + block * stride,
                 kBlock, false);
      for (std::int64_t i = 0; i < count; ++i) {
        const Span span = seen.span(s, first + i, shape.window, stride);
        for (std::int64_t h = 0; h < heads; ++h) {
          const std::int64_t row = h * count + i;
          const AttentionSums<float> sums =
              exponentials(scores + row * kBlock, span, scale, p + row * kBlock);
          inverse[row] = sums.inverse;
          log_sum[(s.row + first + i) * shape.heads + h] = sums.log_sum;
        }
      }
      for_each_column_block(dim, [&](std::int64_t c, std::int64_t columns) {
        for (std::int64_t block = 0; block < seen.blocks(); ++block)
          multiply(padded, columns, kBlock, p + block * stride, kBlock,
                   values.rows + (seen.begin + block * kBlock) * dim + kBlock * c, o_rows + c, dim,
                   block > 0);
      });
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < count; ++i)
          write_row(o_rows + (h * count + i) * dim, dim, inverse[h * count + i],
                    o + (s.row + first + i) * q_row + h * dim);
      }
    }
  }
}

/// Writes the gradients of a path's keys or values from segment i back to place `depth`. They stand
/// in blocks of keys, in columns (D × keys); `rows`: room for a block.
GRAPHLORA_MATRIX_UNIT_INLINE void leave_path(const float* columns, float* rows,
                                             const SegmentQueries* segments, std::int64_t i,
                                             std::int64_t depth, std::int64_t dim, float factor,
                                             BFloat16* to, std::int64_t kv_row) {
  for (; i >= 0 && segments[i].depth >= depth; i = segments[i].parent) {
    const SegmentQueries& s = segments[i];
    for (std::int64_t j = s.depth; j < s.keys();) {
      const std::int64_t in_block = j % kBlock, count = std::min(kBlock - in_block, s.keys() - j);
      const float* own = columns + (j - in_block) * dim + in_block;
      BFloat16* own_to = to + (s.begin + j - s.depth) * kv_row;
      transpose(own, kBlock, dim, count, rows, dim);
      for (std::int64_t key = 0; key < count; ++key)
        write_row(rows + key * dim, dim, factor, own_to + key * kv_row);
      j += count;
    }
  }
}

/// Zeros for the gradients of a segment's own keys, and behind them to the end of their last block:
/// products add zeros there, which are none where a number is not finite.
GRAPHLORA_INLINE void enter_path(float* columns, const SegmentQueries& s, std::int64_t dim) {
  const std::int64_t end = blocks_of(s.keys()) * kBlock;
  for (std::int64_t j = s.depth; j < end;) {
    const std::int64_t in_block = j % kBlock, count = kBlock - in_block;
    for (std::int64_t d = 0; d < dim; ++d)
      std::fill_n(columns + (j - in_block) * dim + d * kBlock + in_block, count, 0.0F);
    j += count;
  }
}

/// A piece here is all of a tree: the gradients of shared keys add up in the buffers until the last
/// segment below has been there.
GRAPHLORA_MATRIX_UNIT void backward_task(const BFloat16* q, const BFloat16* k, const BFloat16* v,
                                         const float* log_sum, const BFloat16* d_o, BFloat16* dq,
                                         BFloat16* dk, BFloat16* dv, const SegmentQueries* segments,
                                         const AttentionPiece& piece, const AttentionShape& shape,
                                         Workspace& w) {
  const AttentionMost most = most_of(segments, piece);
  const std::int64_t dim = shape.dim, heads = shape.heads_per_group(), q_row = shape.q_row(),
                     kv_row = shape.kv_row(), blocks = blocks_of(most.keys),
                     wide = whole_depth(heads * std::min(kQueryBlock, most.queries)),
                     operand = blocks * kBlock * dim, square = blocks * wide * kBlock;
  const auto scale = shape.scale<float>();
  const Operands keys{w.k_columns.sized(operand), w.k_rows.sized(operand), dim};
  const Operands values{w.v_columns.sized(operand), nullptr, dim};
  BFloat16 *q_rows = w.q.sized(wide * dim), *d_o_rows = w.d_o.sized(wide * dim),
           *q_columns = w.q_columns.sized(wide * dim),
           *d_o_columns = w.d_o_columns.sized(wide * dim), *p = w.p.sized(square),
           *ds = w.ds.sized(square), *pairs = w.pairs.sized(wide * std::max(dim, kBlock));
  float *scores = w.scores.sized(square), *d_scores = w.d_scores.sized(square),
        *dq_rows = w.o.sized(wide * dim), *dk_columns = w.dk.sized(operand),
        *dv_columns = w.dv.sized(operand), *rows_of_block = w.rows.sized(kBlock * dim);
  const auto leave = [&](std::int64_t segment, std::int64_t depth) GRAPHLORA_MATRIX_UNIT {
    leave_path(dk_columns, rows_of_block, segments, segment, depth, dim, scale, dk, kv_row);
    leave_path(dv_columns, rows_of_block, segments, segment, depth, dim, 1, dv, kv_row);
  };
  for (std::size_t segment = piece.first; segment < piece.end; ++segment) {
    const SegmentQueries& s = segments[segment];
    if (segment > piece.first) leave(static_cast<std::int64_t>(segment) - 1, s.depth);
    for (float* columns : {dk_columns, dv_columns}) enter_path(columns, s, dim);
    keys.put(k + s.begin * kv_row, kv_row, s.depth, s.length);
    keys.end_at(s.keys());
    values.put(v + s.begin * kv_row, kv_row, s.depth, s.length);
    for (std::int64_t first = 0; first < s.count; first += kQueryBlock) {
      const std::int64_t count = std::min(kQueryBlock, s.count - first), rows = heads * count,
                         padded = whole_depth(rows), stride = padded * kBlock;
      const Seen seen = seen_by(s, first, count, shape.window);
      const auto block_at = [&](std::int64_t block) { return (seen.begin + block * kBlock) * dim; };
      const std::int64_t at = (s.row + first) * q_row;
      read_rows(q + at, q_row, heads, count, dim, padded, q_rows);
      read_rows(d_o + at, q_row, heads, count, dim, padded, d_o_rows);
      transpose_rows(q_rows, padded, dim, pairs, q_columns);
      transpose_rows(d_o_rows, padded, dim, pairs, d_o_columns);
      for (std::int64_t block = 0; block < seen.blocks(); ++block) {
        multiply(padded, kBlock, dim, q_rows, dim, keys.columns + block_at(block),
                 scores + block * stride, kBlock, false);
        multiply(padded, kBlock, dim, d_o_rows, dim, values.columns + block_at(block),
                 d_scores + block * stride, kBlock, false);
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const Span span = seen.span(s, first + i, shape.window, stride);
        for (std::int64_t h = 0; h < heads; ++h) {
          const std::int64_t row = (h * count + i) * kBlock;
          gradients(scores + row, d_scores + row, span, scale,
                    log_sum[(s.row + first + i) * shape.heads + h], p + row, ds + row);
        }
      }
      for (std::int64_t block = 0; block < seen.blocks(); ++block) {
        for (BFloat16* padding : {p, ds})
          std::fill_n(padding + block * stride + rows * kBlock, (padded - rows) * kBlock,
                      BFloat16(0));
      }
      for_each_column_block(dim, [&](std::int64_t c, std::int64_t columns) {
        for (std::int64_t block = 0; block < seen.blocks(); ++block)
          multiply(padded, columns, kBlock, ds + block * stride, kBlock,
                   keys.rows + block_at(block) + kBlock * c, dq_rows + c, dim, block > 0);
      });
      const auto add_columns = [&](const BFloat16* left, const BFloat16* right, float* sum)
          __attribute__((always_inline)) {
        for (std::int64_t block = 0; block < seen.blocks(); ++block) {
          for (std::int64_t r = 0; r < padded; r += 2)
            pair_rows(right + block * stride + r * kBlock,
                      right + block * stride + (r + 1) * kBlock, kBlock, pairs + r * kBlock);
          multiply(dim, kBlock, padded, left, padded, pairs, sum + block_at(block), kBlock, true);
        }
      };
      add_columns(q_columns, ds, dk_columns);
      add_columns(d_o_columns, p, dv_columns);
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < count; ++i)
          write_row(dq_rows + (h * count + i) * dim, dim, scale, dq + at + i * q_row + h * dim);
      }
    }
  }
  leave(static_cast<std::int64_t>(piece.end) - 1, 0);
}

}  // namespace

bool attention_tiles_fit(const at::Tensor& q_SND) {
  const std::int64_t dim = q_SND.size(2);
  return q_SND.is_cpu() && q_SND.scalar_type() == at::kBFloat16 && dim % kDepth == 0 &&
         matrix_unit::available() && !is_off(Shortcut::attention_tiles);
}

std::tuple<at::Tensor, at::Tensor> tile_attention(const at::Tensor& q_SND, const at::Tensor& k_TGD,
                                                  const at::Tensor& v_TGD,
                                                  const PackQueries& queries, std::int64_t window) {
  const AttentionShape shape = attention_shape(q_SND, k_TGD, window);
  const std::vector<SegmentQueries>& segments = queries.segments();
  at::Tensor o_SND = at::empty_like(q_SND);
  at::Tensor log_sum_SN =
      at::empty({q_SND.size(0), shape.heads}, q_SND.options().dtype(at::kFloat));
  for_each_attention_task<Workspace>(
      attention_pieces(segments, kForwardPieceTokens), shape.groups,
      [&](const AttentionPiece& piece, std::int64_t group, Workspace& workspace) {
        const std::int64_t head = group * shape.heads_per_group(), at = head * shape.dim,
                           kv_at = group * shape.dim;
        forward_task(q_SND.const_data_ptr<BFloat16>() + at,
                     k_TGD.const_data_ptr<BFloat16>() + kv_at,
                     v_TGD.const_data_ptr<BFloat16>() + kv_at, o_SND.data_ptr<BFloat16>() + at,
                     log_sum_SN.data_ptr<float>() + head, segments.data(), piece, shape, workspace);
      });
  return {o_SND, log_sum_SN};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> tile_attention_backward(
    const at::Tensor& d_o_SND, const at::Tensor& q_SND, const at::Tensor& k_TGD,
    const at::Tensor& v_TGD, const at::Tensor& log_sum_SN, const PackQueries& queries,
    std::int64_t window) {
  const AttentionShape shape = attention_shape(q_SND, k_TGD, window);
  const std::vector<SegmentQueries>& segments = queries.segments();
  at::Tensor dq_SND = at::empty_like(q_SND), dk_TGD = at::empty_like(k_TGD),
             dv_TGD = at::empty_like(v_TGD);
  for_each_attention_task<Workspace>(
      attention_pieces(segments, kWholeTree), shape.groups,
      [&](const AttentionPiece& piece, std::int64_t group, Workspace& workspace) {
        const std::int64_t head = group * shape.heads_per_group(), at = head * shape.dim,
                           kv_at = group * shape.dim;
        backward_task(
            q_SND.const_data_ptr<BFloat16>() + at, k_TGD.const_data_ptr<BFloat16>() + kv_at,
            v_TGD.const_data_ptr<BFloat16>() + kv_at, log_sum_SN.const_data_ptr<float>() + head,
            d_o_SND.const_data_ptr<BFloat16>() + at, dq_SND.data_ptr<BFloat16>() + at,
            dk_TGD.data_ptr<BFloat16>() + kv_at, dv_TGD.data_ptr<BFloat16>() + kv_at,
            segments.data(), piece, shape, workspace);
      });
  return {dq_SND, dk_TGD, dv_TGD};
}

}  // namespace graphlora
