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

// The same for loops over (row, column), where every thread writes one number.

/// Rows of index lists where a device keeps them; entries from `limit` on are left out.
struct RowRuns {
  const std::int64_t* pointers = nullptr;
  std::int64_t stride = 1;
  int drop_begin = 1, drop_end = 1, groups = 1;
  const std::int32_t* index = nullptr;
  std::int64_t limit = 0;

  template <class Visit>
  GRAPHLORA_HOST_DEVICE void each(std::int64_t row, const Visit& visit) const {
    const std::int64_t* p = pointers + row * stride;
    for (std::int64_t e = p[0]; e < p[drop_begin]; ++e)
      if (index[e] < limit) visit(static_cast<std::int64_t>(index[e]));
    for (std::int64_t e = p[drop_end]; e < p[groups]; ++e)
      if (index[e] < limit) visit(static_cast<std::int64_t>(index[e]));
  }
};

/// lse of (target, head).
template <class T>
struct AttendLse {
  EdgeAttention<T> a;
  RowRuns in_edges;
  T* lse;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t target, std::int64_t head) const {
    const auto each = [&](const auto& visit) { in_edges.each(target, visit); };
    const T most = greatest_score(a, target, head, each);
    T sum = 0;
    each([&](std::int64_t j) { sum += std::exp(a.leaky(a.raw(target, j, head)) - most); });
    lse[target * a.heads + head] = sum > 0 ? most + std::log(sum) : most;
  }
};

/// out of (target, head·width + column), once lse is there.
template <class T>
struct AttendOut {
  EdgeAttention<T> a;
  RowRuns in_edges;
  const T* lse;
  T* out;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t target, std::int64_t place) const {
    const std::int64_t head = place / a.width, row = a.heads * a.width;
    const T own_lse = lse[target * a.heads + head];
    T sum = 0;
    in_edges.each(target, [&](std::int64_t j) {
      sum += std::exp(a.leaky(a.raw(target, j, head)) - own_lse) * a.value[j * row + place];
    });
    out[target * row + place] = sum;
  }
};

/// Gradient of score_dst of (target, head).
template <class T>
struct AttendTargetGradient {
  EdgeAttention<T> a;
  EdgeAttentionGradient<T> g;
  RowRuns in_edges;
  T* grad_dst;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t target, std::int64_t head) const {
    T sum = 0;
    in_edges.each(target,
                  [&](std::int64_t j) { sum += edge_gradient(a, g, target, j, head).score; });
    grad_dst[target * a.heads + head] = sum;
  }
};

/// Gradient of value of (source, head·width + column); sources are the lists' rows from `first` on.
template <class T>
struct AttendValueGradient {
  EdgeAttention<T> a;
  EdgeAttentionGradient<T> g;
  RowRuns uses;
  std::int64_t first;
  T* grad_value;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t list, std::int64_t place) const {
    const std::int64_t head = place / a.width, row = a.heads * a.width, source = first + list;
    T sum = 0;
    uses.each(list, [&](std::int64_t i) {
      const T alpha = std::exp(a.leaky(a.raw(i, source, head)) - g.lse[i * a.heads + head]);
      sum += alpha * g.grad[i * row + place];
    });
    grad_value[source * row + place] = sum;
  }
};

/// Gradient of score_src of (source, head).
template <class T>
struct AttendSourceGradient {
  EdgeAttention<T> a;
  EdgeAttentionGradient<T> g;
  RowRuns uses;
  std::int64_t first;
  T* grad_src;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t list, std::int64_t head) const {
    T sum = 0;
    uses.each(list,
              [&](std::int64_t i) { sum += edge_gradient(a, g, i, first + list, head).score; });
    grad_src[(first + list) * a.heads + head] = sum;
  }
};

}  // namespace graphlora
