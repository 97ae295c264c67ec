// The graph as a dense matrix, straight from the dataset: what sharded code is compared with.
// Shapes: N nodes.
#pragma once
#include <torch/types.h>

#include <string>

#include "core/rng.hpp"
#include "data/dataset.hpp"
#include "graph/cut.hpp"

namespace graphlora::test {

/// A of the graph that a view leaves, dense, from the dataset itself.
inline at::Tensor dense_adjacency(const Dataset& dataset, const CutRule& cut, const CutView& view) {
  at::Tensor a_NN = at::zeros({dataset.nodes(), dataset.nodes()}, at::kDouble);
  for (const std::int64_t row : dataset.rows_of(Split::train)) {
    if (dataset.label()[row] == 0) continue;
    const int group = cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row]);
    if (group >= view.drop_begin && group < view.drop_end) continue;
    a_NN[dataset.user_node(row)][dataset.item_node(row)] = 1;
    a_NN[dataset.item_node(row)][dataset.user_node(row)] = 1;
  }
  return a_NN;
}

/// S = D^-1/2·A·D^-1/2 of it.
inline at::Tensor dense_symmetric(const Dataset& dataset, const CutRule& cut, const CutView& view) {
  const at::Tensor a_NN = dense_adjacency(dataset, cut, view);
  const at::Tensor degree_N = a_NN.sum(1);
  const at::Tensor factor_N = at::where(degree_N > 0, degree_N.rsqrt(), at::zeros_like(degree_N));
  return factor_N.unsqueeze(1) * a_NN * factor_N;
}

/// fp64 normal numbers drawn from the name.
inline at::Tensor random_tensor(at::IntArrayRef shape, const std::string& name) {
  at::Tensor values = at::empty(shape, at::kDouble);
  SplitMix64 random(hash_name(3, name));
  for (std::int64_t i = 0; i < values.numel(); ++i)
    values.mutable_data_ptr<double>()[i] = random.normal();
  return values;
}

}  // namespace graphlora::test
