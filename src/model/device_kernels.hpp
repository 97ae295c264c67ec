// Bodies of the decoder's element-wise loops, for CPU and CUDA alike (core/device_loop.hpp). T is
// the type in memory (bf16, float, double); arithmetic is in Compute<T>. No tensors here.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.hpp"

namespace graphlora::kernel {

/// inverse_rms of a row: (mean(x²) + eps)^-1/2.
template <class T>
struct InverseRms {
  using C = Compute<T>;
  const T* x;
  std::int64_t columns;
  double eps;
  C* inverse_rms;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t) const { return columns; }
  GRAPHLORA_HOST_DEVICE C term(std::int64_t row, std::int64_t column) const {
    const C v = static_cast<C>(x[row * columns + column]);
    return v * v;
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, C squares) const {
    inverse_rms[row] = C(1) / std::sqrt(squares / static_cast<C>(columns) + static_cast<C>(eps));
  }
};

/// y = x·inverse_rms·weight.
template <class T>
struct RmsScale {
  using C = Compute<T>;
  const T *x, *weight;
  const C* inverse_rms;
  std::int64_t width;
  T* y;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * width + column;
    y[at] =
        static_cast<T>(static_cast<C>(x[at]) * inverse_rms[row] * static_cast<C>(weight[column]));
  }
};

/// What of a row's gradient points along x: Σ(w∘dy∘x)·s³/H.
template <class T>
struct RmsAlong {
  using C = Compute<T>;
  const T *x, *weight, *dy;
  const C* inverse_rms;
  std::int64_t columns;
  C* along;
  GRAPHLORA_HOST_DEVICE std::int64_t terms(std::int64_t) const { return columns; }
  GRAPHLORA_HOST_DEVICE C term(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * columns + column;
    return static_cast<C>(x[at]) * static_cast<C>(dy[at]) * static_cast<C>(weight[column]);
  }
  GRAPHLORA_HOST_DEVICE void finish(std::int64_t row, C products) const {
    const C s = inverse_rms[row];
    along[row] = products * s * s * s / static_cast<C>(columns);
  }
};

/// dx = dstream + s·(w∘dy) − x·along.
template <class T>
struct RmsGradient {
  using C = Compute<T>;
  const T *x, *weight, *dy, *dstream;
  const C *inverse_rms, *along;
  std::int64_t width;
  T* dx;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * width + column;
    const C direct = static_cast<C>(dy[at]) * static_cast<C>(weight[column]) * inverse_rms[row];
    dx[at] =
        static_cast<T>(static_cast<C>(dstream[at]) + direct - static_cast<C>(x[at]) * along[row]);
  }
};

/// One part of the stacked rows: pair (a, b) of halves `half` apart, rotated by the token's angle
/// times `direction`; copied where cos is null. Column = head·half + i.
template <class T>
struct RotatePart {
  using C = Compute<T>;
  const T* from;
  T* to;
  std::int64_t from_row, to_row;  // numbers between two rows
  const C *cos, *sin;             // (limit, half), or null
  const std::int64_t* positions;
  std::int64_t limit;  // beyond it there are no angles: the result is no number
  std::int64_t half;
  int direction;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = column % half, at = column / half * 2 * half + i;
    const T* source = from + row * from_row + at;
    T* target = to + row * to_row + at;
    if (cos == nullptr) {
      target[0] = source[0];
      target[half] = source[half];
      return;
    }
    const std::int64_t position = positions[row];
    const bool known = position >= 0 && position < limit;
    const C c = known ? cos[position * half + i] : static_cast<C>(NAN);
    const C s = known ? sin[position * half + i] * static_cast<C>(direction) : static_cast<C>(NAN);
    const C a = static_cast<C>(source[0]), b = static_cast<C>(source[half]);
    target[0] = static_cast<T>(a * c - b * s);
    target[half] = static_cast<T>(b * c + a * s);
  }
};

template <class C>
GRAPHLORA_HOST_DEVICE inline C sigmoid(C x) {
  return C(1) / (C(1) + std::exp(-x));
}

/// y = g·σ(g)·u.
template <class T>
struct SwigluForward {
  using C = Compute<T>;
  const T* gate_up;
  std::int64_t width;
  T* y;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    const T* x = gate_up + row * 2 * width + column;
    const C gate = static_cast<C>(x[0]), up = static_cast<C>(x[width]);
    y[row * width + column] = static_cast<T>(gate * sigmoid(gate) * up);
  }
};

/// dg = dy·u·σ(g)·(1 + g·(1 − σ(g))), du = dy·g·σ(g).
template <class T>
struct SwigluBackward {
  using C = Compute<T>;
  const T *gate_up, *dy;
  std::int64_t width;
  T* dgate_up;
  GRAPHLORA_HOST_DEVICE void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * 2 * width + column;
    const C gate = static_cast<C>(gate_up[at]), up = static_cast<C>(gate_up[at + width]);
    const C gradient = static_cast<C>(dy[row * width + column]), s = sigmoid(gate);
    dgate_up[at] = static_cast<T>(gradient * up * s * (1 + gate * (1 - s)));
    dgate_up[at + width] = static_cast<T>(gradient * gate * s);
  }
};

}  // namespace graphlora::kernel
