// The arithmetic of the updates, number by number, for CPU and CUDA alike. No torch headers here.
// Shapes: n rows, D width, r rank, S sparse rows.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.hpp"

namespace graphlora {

/// One step's scalars of AdamW as torch.optim.AdamW has it:
///   p ← p·(1 − lr·wd);  m ← m + (1 − β1)(g − m);  v ← β2·v + (1 − β2)·g²
///   p ← p − lr/(1 − β1ᵗ) · m / (√v/√(1 − β2ᵗ) + ε)
template <class T>
struct AdamWScalars {
  T keep, lerp1, beta2, one_minus_beta2, step_size, inverse_root_correction2, epsilon;

  AdamWScalars(double lr, double weight_decay, double beta1, double beta2, double epsilon,
               std::int64_t updates)
      : keep(static_cast<T>(1 - lr * weight_decay)),
        lerp1(static_cast<T>(1 - beta1)),
        beta2(static_cast<T>(beta2)),
        one_minus_beta2(static_cast<T>(1 - beta2)),
        step_size(static_cast<T>(lr / (1 - std::pow(beta1, static_cast<double>(updates))))),
        inverse_root_correction2(
            static_cast<T>(1 / std::sqrt(1 - std::pow(beta2, static_cast<double>(updates))))),
        epsilon(static_cast<T>(epsilon)) {}
};

/// What the update of a table reads as its gradient: low rank times factor, plus dense, plus sparse
/// rows; absent parts are null.
template <class T>
struct RowGradient {
  std::int64_t width = 0, rank = 0, sparse_rows = 0;
  const T* low_rank = nullptr;         ///< n x r
  const T* factor = nullptr;           ///< r x D
  const T* dense = nullptr;            ///< n x D
  const std::int64_t* rows = nullptr;  ///< S, ascending, each once
  const T* sparse = nullptr;           ///< S x D

  GRAPHLORA_HOST_DEVICE T operator()(std::int64_t row, std::int64_t column) const {
    T sum = 0;
    for (std::int64_t q = 0; q < rank; ++q)
      sum += low_rank[row * rank + q] * factor[q * width + column];
    if (dense != nullptr) sum += dense[row * width + column];
    if (sparse_rows > 0) {
      std::int64_t first = 0, last = sparse_rows;  // the first entry that is at least `row`
      while (first < last) {
        const std::int64_t middle = first + (last - first) / 2;
        if (rows[middle] < row) {
          first = middle + 1;
        } else {
          last = middle;
        }
      }
      if (first < sparse_rows && rows[first] == row) sum += sparse[first * width + column];
    }
    return sum;
  }
};

template <class T>
struct AdamWUpdate {
  AdamWScalars<T> s;
  RowGradient<T> gradient;
  T *p, *m, *v;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t k = row * gradient.width + column;
    const T g = gradient(row, column);
    const T mean = m[k] + s.lerp1 * (g - m[k]);
    const T square = s.beta2 * v[k] + s.one_minus_beta2 * (g * g);
    m[k] = mean;
    v[k] = square;
    p[k] = s.keep * p[k] -
           s.step_size * mean / (std::sqrt(square) * s.inverse_root_correction2 + s.epsilon);
  }
};

template <class T>
struct SgdUpdate {
  T lr;
  RowGradient<T> gradient;
  T* p;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    p[row * gradient.width + column] -= lr * gradient(row, column);
  }
};

}  // namespace graphlora
