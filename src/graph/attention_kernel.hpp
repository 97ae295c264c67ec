// The arithmetic of attention over the edges of a graph, row by row. No torch headers here.
// Per head, with s_ij = leaky(dst_i + src_j): α_ij = exp(s_ij − lse_i), out_i = Σ_j α_ij·h_j.
// Source: Veličković et al. 2018, eq. 1 to 4. The backward keeps no number per edge: α_ij comes
// again from lse_i, and Σ_j α_ij·(g_i·h_j) is g_i·out_i, as in FlashAttention (Dao et al. 2022).
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

namespace graphlora {

/// Rows of `heads` numbers or of heads·width numbers; targets are the first sources.
template <class T>
struct EdgeAttention {
  const T* value = nullptr;      ///< h of sources
  const T* score_src = nullptr;  ///< of sources
  const T* score_dst = nullptr;  ///< of targets, the bias included
  std::int64_t heads = 1, width = 0;
  T slope = T(0.2);

  T raw(std::int64_t target, std::int64_t source, std::int64_t head) const {
    return score_dst[target * heads + head] + score_src[source * heads + head];
  }
  T leaky(T raw) const { return raw > 0 ? raw : slope * raw; }
  T slope_at(T raw) const { return raw > 0 ? T(1) : slope; }
};

/// `each(visit)` calls visit(source) for the in-edges of the target, twice in the same order.
/// Writes the target's row of out and of lse (−inf and 0 where there are no edges).
template <class T, class Each>
void attend(const EdgeAttention<T>& a, std::int64_t target, const Each& each, T* out, T* lse) {
  for (std::int64_t head = 0; head < a.heads; ++head) {
    T most = -std::numeric_limits<T>::infinity();
    each([&](std::int64_t j) {
      const T score = a.leaky(a.raw(target, j, head));
      most = score > most ? score : most;
    });
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

/// α_ij and ∂loss/∂(dst_i + src_j) of one edge and head.
template <class T>
std::pair<T, T> edge_gradient(const EdgeAttention<T>& a, const EdgeAttentionGradient<T>& g,
                              std::int64_t target, std::int64_t source, std::int64_t head) {
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
    each([&](std::int64_t j) { sum += edge_gradient(a, g, target, j, head).second; });
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

}  // namespace graphlora
