// The graph encoder: node embeddings → g (n, r) on the shards. One class per GNN; only lightgcn is
// here yet. Shapes: n owned nodes, D = d_e, r rank.
#pragma once
#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "dist/communicator.hpp"
#include "dist/parameter.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

struct GnnConfig {
  std::string type = "lightgcn";  ///< lightgcn | none (others: refused by name)
  std::int64_t layers = 3;
  std::int64_t rank = 8;  ///< r, width of g
  std::string init =
      "pca";  ///< neck's start: pca (leading directions of the propagated E) | random
};

class Gnn {
 public:
  virtual ~Gnn() = default;
  /// g_nr of all owned nodes, before normalization. Keeps what backward needs if `training`.
  /// Collective.
  virtual at::Tensor forward(const GraphPlan& plan, Communicator& world, const at::Tensor& e_nD,
                             bool training) = 0;
  /// Sets the parameters' .grad() and the low-rank part of `gradient`, whose factor is the neck's
  /// weight itself: to be used before that moves. Collective.
  virtual void backward(const at::Tensor& grad_g_nr, EmbeddingGradient& gradient) = 0;
  /// Sets data-dependent initial weights (PCA); seeded ones are set at construction. Collective.
  virtual void initialize(const GraphPlan& plan, Communicator& world, const at::Tensor& e_nD) = 0;
  virtual const std::vector<Parameter>& parameters() const = 0;
};

/// Null for type "none". Throws ConfigError.
std::unique_ptr<Gnn> make_gnn(const GnnConfig& config, std::int64_t embedding_width,
                              at::ScalarType dtype, std::uint64_t seed);

/// z = s·g/max(‖g‖, 1e-12), 0 where `degree` is 0. g_Sr, degree_S (i32) → z_Sr. Differentiable.
at::Tensor normalize_rows(const at::Tensor& g_Sr, const at::Tensor& degree_S, double scale = 0.1);

}  // namespace graphlora
