// Packs for tests of attention, and its definition.
#pragma once
#include <torch/types.h>

#include <cmath>
#include <vector>

#include "data/pack.hpp"

namespace graphlora::testing {

inline std::vector<Segment> segments_of(const std::vector<std::int64_t>& lengths) {
  std::vector<Segment> segments;
  std::int64_t begin = 0;
  for (const std::int64_t length : lengths) {
    segments.push_back({.begin = begin, .length = length});
    begin += length;
  }
  return segments;
}

/// Softmax attention of one segment after the other over its path, with the mask written out.
inline at::Tensor reference_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const std::vector<Segment>& segments,
                                      std::int64_t window = 0) {
  const std::int64_t repeat = q.size(1) / k.size(1);
  std::vector<at::Tensor> outputs;
  for (const Segment& s : segments) {
    std::vector<at::Tensor> path;
    for (const Segment* p = &s;; p = &segments[p->parent]) {
      path.insert(path.begin(), at::arange(p->begin, p->begin + p->length));
      if (p->parent < 0) break;
    }
    const at::Tensor rows = at::cat(path);
    const auto along_path = [&](const at::Tensor& x) {
      return x.index_select(0, rows).transpose(0, 1).repeat_interleave(repeat, 0);
    };
    const at::Tensor scores =
        at::matmul(q.narrow(0, s.begin, s.length).transpose(0, 1), along_path(k).transpose(1, 2)) /
        std::sqrt(static_cast<double>(q.size(2)));
    const std::int64_t keys = rows.numel();
    const at::Tensor ones = at::ones({keys, keys}, at::kBool);
    at::Tensor hidden = ones.triu(1);
    if (window > 0) hidden = hidden.logical_or(ones.tril(-window));
    hidden = hidden.slice(0, keys - s.length);
    outputs.push_back(at::matmul(scores.masked_fill(hidden, -INFINITY).softmax(-1), along_path(v))
                          .transpose(0, 1));
  }
  return at::cat(outputs);
}

/// Trees of every shape: alone, flat, nested, wider than a task's piece; 621 tokens.
inline std::vector<Segment> trees() {
  std::vector<Segment> segments;
  std::int64_t begin = 0;
  const auto add = [&](std::int64_t length, std::int64_t parent) {
    segments.push_back({.begin = begin, .length = length, .parent = parent});
    begin += length;
  };
  add(7, -1);
  add(40, -1);  // 1
  for (int i = 0; i < 4; ++i) add(3 + 17 * i, 1);
  add(20, -1);  // 6
  add(1, 6);
  add(35, 6);  // 8
  add(9, 8);   // 9
  add(2, 9);
  add(33, 9);
  add(4, 8);
  add(5, 6);
  add(70, -1);  // 14
  for (int i = 0; i < 12; ++i) add(21, 14);
  add(29, -1);
  return segments;
}

}  // namespace graphlora::testing
