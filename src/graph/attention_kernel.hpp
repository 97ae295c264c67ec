// The arithmetic of attention over the edges of a graph, for CPU and CUDA alike. No torch headers
// here.
// Per head, with s_ij = leaky(dst_i + src_j): α_ij = exp(s_ij − lse_i), out_i = Σ_j α_ij·h_j.
// Source: Veličković et al. 2018, eq. 1 to 4. The backward keeps no number per edge: α_ij comes
// again from lse_i, and Σ_j α_ij·(g_i·h_j) is g_i·out_i, as in FlashAttention (Dao et al. 2022).
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.hpp"

namespace graphlora {

/// Rows of `heads` numbers or of heads·width numbers; targets are the first sources.
template <class T>
struct EdgeAttention {
  const T* value = nullptr;      ///< h of sources
  const T* score_src = nullptr;  ///< of sources
  const T* score_dst = nullptr;  ///< of targets, the bias included
  std::int64_t heads = 1, width = 0;
  T slope = T(0.2);

  GRAPHLORA_HOST_DEVICE T raw(std::int64_t target, std::int64_t source, std::int64_t head) const {
    return score_dst[target * heads + head] + score_src[source * heads + head];
  }
  GRAPHLORA_HOST_DEVICE T leaky(T raw) const { return raw > 0 ? raw : slope * raw; }
  GRAPHLORA_HOST_DEVICE T slope_at(T raw) const { return raw > 0 ? T(1) : slope; }
};

/// The greatest score of a target's in-edges; −inf where there are none.
template <class T, class Each>
GRAPHLORA_HOST_DEVICE T greatest_score(const EdgeAttention<T>& a, std::int64_t target,
                                       std::int64_t head, const Each& each) {
  T most = static_cast<T>(-INFINITY);
  each([&](std::int64_t j) {
    const T score = a.leaky(a.raw(target, j, head));
    most = score > most ? score : most;
  });
  return most;
}

/// `each(visit)` calls visit(source) for the in-edges of the target, twice in the same order.
/// Writes the target's row of out and of lse (−inf and 0 where there are no edges).
template <class T, class Each>
void attend(const EdgeAttention<T>& a, std::int64_t target, const Each& each, T* out, T* lse) {
  for (std::int64_t head = 0; head < a.heads; ++head) {
    const T most = greatest_score(a, target, head, each);
    T sum = 0;
    T* row = out + (target * a.heads + head) * a.width;
    for (std::int64_t c = 0; c < a.width; ++c) row[c] = 0;
    each([&](std::int64_t j) {
      const T weight = std::exp(a.leaky(a.raw(target, j, head)) - most);
      const T* value = a.value + (j * a.heads + head) * a.width;
      sum += weight;
      for (std::int64_t c = 0; c < a.width; ++c) row[c] += weight * value[c];
    });
    if (sum > 0)
      for (std::int64_t c = 0; c < a.width; ++c) row[c] /= sum;
    lse[target * a.heads + head] = sum > 0 ? most + std::log(sum) : most;
  }
}

/// What the backward knows of every target: gradient g of out, lse, and dot = g·out per head.
template <class T>
struct EdgeAttentionGradient {
  const T* grad = nullptr;
  const T* lse = nullptr;
  const T* dot = nullptr;
};

template <class T>
struct EdgeGradient {
  T alpha;  ///< α_ij
  T score;  ///< ∂loss/∂(dst_i + src_j)
};

/// Of one edge and head.
template <class T>
GRAPHLORA_HOST_DEVICE EdgeGradient<T> edge_gradient(const EdgeAttention<T>& a,
                                                    const EdgeAttentionGradient<T>& g,
                                                    std::int64_t target, std::int64_t source,
                                                    std::int64_t head) {
  const T raw = a.raw(target, source, head);
  const T alpha = std::exp(a.leaky(raw) - g.lse[target * a.heads + head]);
  const T* grad = g.grad + (target * a.heads + head) * a.width;
  const T* value = a.value + (source * a.heads + head) * a.width;
  T product = 0;
  for (std::int64_t c = 0; c < a.width; ++c) product += grad[c] * value[c];
  return {alpha, alpha * (product - g.dot[target * a.heads + head]) * a.slope_at(raw)};
}

/// Gradient of a target's score_dst, over its in-edges.
template <class T, class Each>
void attend_target_backward(const EdgeAttention<T>& a, const EdgeAttentionGradient<T>& g,
                            std::int64_t target, const Each& each, T* grad_dst) {
  for (std::int64_t head = 0; head < a.heads; ++head) {
    T sum = 0;
    each([&](std::int64_t j) { sum += edge_gradient(a, g, target, j, head).score; });
    grad_dst[target * a.heads + head] = sum;
  }
}

/// Gradients of a source's value and score_src, over the targets that use it.
template <class T, class Each>
void attend_source_backward(const EdgeAttention<T>& a, const EdgeAttentionGradient<T>& g,
                            std::int64_t source, const Each& each, T* grad_value, T* grad_src) {
  for (std::int64_t head = 0; head < a.heads; ++head) {
    T* row = grad_value + (source * a.heads + head) * a.width;
    for (std::int64_t c = 0; c < a.width; ++c) row[c] = 0;
    T sum = 0;
    each([&](std::int64_t i) {
      const auto [alpha, score] = edge_gradient(a, g, i, source, head);
      const T* grad = g.grad + (i * a.heads + head) * a.width;
      sum += score;
      for (std::int64_t c = 0; c < a.width; ++c) row[c] += alpha * grad[c];
    });
    grad_src[source * a.heads + head] = sum;
  }
}

// The same for the device path, where the lanes of a warp share a sum over edges (device_row_sums).
// Rows are pairs of a node and a head, or of a node and a block of a head's columns.

/// Rows of index lists where a device keeps them; entries from `limit` on are left out.
struct RowRuns {
  const std::int64_t* pointers = nullptr;
  std::int64_t stride = 1;
  int drop_begin = 1, drop_end = 1, groups = 1;
  const std::int32_t* index = nullptr;
  std::int64_t limit = 0;

  /// Entries of a row, those from `limit` on included.
  GRAPHLORA_HOST_DEVICE std::int64_t size(std::int64_t row) const {
    const std::int64_t* p = pointers + row * stride;
    return p[drop_begin] - p[0] + p[groups] - p[drop_end];
  }
  GRAPHLORA_HOST_DEVICE std::int64_t entry(std::int64_t row, std::int64_t k) const {
    const std::int64_t* p = pointers + row * stride;
    const std::int64_t first_run = p[drop_begin] - p[0];
    return index[k < first_run ? p[0] + k : p[drop_end] + k - first_run];
  }
};

/// A sum of exponentials, exp(most)·sum, which does not overflow.
template <class T>
struct ExponentialSum {
  T most = static_cast<T>(-INFINITY), sum = 0;
  GRAPHLORA_HOST_DEVICE ExponentialSum& operator+=(const ExponentialSum& other) {
    if (other.sum == 0) return *this;
    if (sum == 0) return *this = other;
    const T higher = other.most > most ? other.most : most;
    sum = sum * std::exp(most - higher) + other.sum * std::exp(other.most - higher);
    most = higher;
    return *this;
  }
};

/// Neighbouring columns that a lane sums at once: the 32 bytes that memory hands out together.
template <class T>
inline constexpr std::int64_t kBlockColumns = 32 / sizeof(T);

template <class T>
struct ColumnSums {
  T at[kBlockColumns<T>] = {};
  GRAPHLORA_HOST_DEVICE ColumnSums& operator+=(const ColumnSums& other) {
    for (int c = 0; c < kBlockColumns<T>; ++c) at[c] += other.at[c];
    return *this;
  }
};

/// A block of columns of a node's head; `place`: of its first column among the node's numbers.
struct ColumnBlock {
  std::int64_t node, head, place, columns;
};

/// Blocks of a node, over its heads.
template <class T>
GRAPHLORA_HOST_DEVICE std::int64_t column_blocks(const EdgeAttention<T>& a) {
  return a.heads * ((a.width + kBlockColumns<T> - 1) / kBlockColumns<T>);
}

/// The one with this number, nodes one after the other.
template <class T>
GRAPHLORA_HOST_DEVICE ColumnBlock column_block(const EdgeAttention<T>& a, std::int64_t number) {
  const std::int64_t in_node = column_blocks(a), in_head = in_node / a.heads,
                     head = number % in_node / in_head,
                     column = number % in_head * kBlockColumns<T>;
  const std::int64_t left = a.width - column;
  return {number / in_node, head, head * a.width + column,
          left < kBlockColumns<T> ? left : kBlockColumns<T>};
}

/// weight·(the block's columns of row `node` of x).
template <class T>
GRAPHLORA_HOST_DEVICE ColumnSums<T> weighted(T weight, const T* x, std::int64_t node,
                                             const EdgeAttention<T>& a, const ColumnBlock& block) {
  const T* from = x + node * a.heads * a.width + block.place;
  ColumnSums<T> result;
  for (std::int64_t c = 0; c < kBlockColumns<T>; ++c)
    if (c < block.columns) result.at[c] = weight * from[c];
  return result;
}

/// Writes the block's columns of row `node` of y.
template <class T>
GRAPHLORA_HOST_DEVICE void write_block(const ColumnSums<T>& sums, T* y, std::int64_t node,
                                       const EdgeAttention<T>& a, const ColumnBlock& block) {
  T* to = y + node * a.heads * a.width + block.place;
  for (std::int64_t c = 0; c < kBlockColumns<T>; ++c)
    if (c < block.columns) to[c] = sums.at[c];
}

/// lse; a row for each target and head.
template <class T>
struct AttendLse {
  EdgeAttention<T> a;
  RowRuns in_edges;
  T* lse;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t row) const {
    return in_edges.size(row / a.heads);
  }
  GRAPHLORA_HOST_DEVICE ExponentialSum<T> term(std::int64_t row, std::int64_t k) const {
    const std::int64_t target = row / a.heads, j = in_edges.entry(target, k);
    if (j >= in_edges.limit) return {};
    return {a.leaky(a.raw(target, j, row % a.heads)), T(1)};
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, const ExponentialSum<T>& total) const {
    lse[row] = total.sum > 0 ? total.most + std::log(total.sum) : total.most;
  }
};

/// out, once lse is there; a row for each target's block.
template <class T>
struct AttendOut {
  EdgeAttention<T> a;
  RowRuns in_edges;
  const T* lse;
  T* out;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t row) const {
    return in_edges.size(row / column_blocks(a));
  }
  GRAPHLORA_HOST_DEVICE ColumnSums<T> term(std::int64_t row, std::int64_t k) const {
    const ColumnBlock block = column_block(a, row);
    const std::int64_t j = in_edges.entry(block.node, k);
    if (j >= in_edges.limit) return {};
    const T alpha = std::exp(a.leaky(a.raw(block.node, j, block.head)) -
                             lse[block.node * a.heads + block.head]);
    return weighted(alpha, a.value, j, a, block);
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, const ColumnSums<T>& sums) const {
    const ColumnBlock block = column_block(a, row);
    write_block(sums, out, block.node, a, block);
  }
};

/// Gradient of score_dst; a row for each target and head.
template <class T>
struct AttendTargetGradient {
  EdgeAttention<T> a;
  EdgeAttentionGradient<T> g;
  RowRuns in_edges;
  T* grad_dst;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t row) const {
    return in_edges.size(row / a.heads);
  }
  GRAPHLORA_HOST_DEVICE T term(std::int64_t row, std::int64_t k) const {
    const std::int64_t target = row / a.heads, j = in_edges.entry(target, k);
    return j >= in_edges.limit ? T(0) : edge_gradient(a, g, target, j, row % a.heads).score;
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, T sum) const { grad_dst[row] = sum; }
};

/// Gradient of value; a row for each block of a source. Sources are the lists' rows from `first`
/// on.
template <class T>
struct AttendValueGradient {
  EdgeAttention<T> a;
  EdgeAttentionGradient<T> g;
  RowRuns uses;
  std::int64_t first;
  T* grad_value;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t row) const {
    return uses.size(row / column_blocks(a));
  }
  GRAPHLORA_HOST_DEVICE ColumnSums<T> term(std::int64_t row, std::int64_t k) const {
    const ColumnBlock block = column_block(a, row);
    const std::int64_t i = uses.entry(block.node, k);
    if (i >= uses.limit) return {};
    const T alpha = std::exp(a.leaky(a.raw(i, first + block.node, block.head)) -
                             g.lse[i * a.heads + block.head]);
    return weighted(alpha, g.grad, i, a, block);
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, const ColumnSums<T>& sums) const {
    const ColumnBlock block = column_block(a, row);
    write_block(sums, grad_value, first + block.node, a, block);
  }
};

/// Gradient of score_src; a row for each source and head.
template <class T>
struct AttendSourceGradient {
  EdgeAttention<T> a;
  EdgeAttentionGradient<T> g;
  RowRuns uses;
  std::int64_t first;
  T* grad_src;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t row) const {
    return uses.size(row / a.heads);
  }
  GRAPHLORA_HOST_DEVICE T term(std::int64_t row, std::int64_t k) const {
    const std::int64_t list = row / a.heads, i = uses.entry(list, k);
    return i >= uses.limit ? T(0) : edge_gradient(a, g, i, first + list, row % a.heads).score;
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, T sum) const {
    grad_src[first * a.heads + row] = sum;
  }
};

}  // namespace graphlora
