// The graph encoder: node embeddings → g (r wide) on the shards. One class per GNN, found by name.
// Shapes: n rows of E given, t targets of the last layer, D = d_e, r rank.
#pragma once
#include <torch/types.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dist/communicator.hpp"
#include "dist/parameter.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

/// Names of the GNNs; "none" stands for no graph injection.
inline const std::vector<std::string> kGnnTypes{"lightgcn",  "ngcf", "gcn",
                                                "graphsage", "gat",  "none"};

inline constexpr std::int64_t kMaxGnnHidden = 1 << 16, kMaxGnnHeads = 256;

struct GnnConfig {
  std::string type = "lightgcn";  ///< one of kGnnTypes
  std::int64_t layers = -1;       ///< -1: 3 for lightgcn and ngcf, 2 for the others
  std::int64_t hidden = 0;        ///< width between layers (not lightgcn); 0: d_e
  std::int64_t heads = 1;         ///< of gat
  std::int64_t rank = 8;          ///< r, width of g
  std::string init =
      "pca";  ///< of lightgcn's neck: pca (leading directions of the propagated E) | random
  std::string mode = "auto";  ///< full | frontier | auto: full for lightgcn, frontier for others
  std::int64_t hops = 0;      ///< how far a frontier reaches; 0: one per layer, which is exact
};

/// Plans of the layers, first layer first: the same one L times, or those of a frontier.
using LayerPlans = std::vector<const GraphPlan*>;

class Gnn {
 public:
  virtual ~Gnn() = default;
  virtual std::int64_t layers() const = 0;
  /// e_nD: rows of E of the first layer's sources → g_tr of the last layer's targets, before
  /// normalization. Keeps what backward needs if `training`; then the plans must live until it is
  /// over. Collective.
  virtual at::Tensor forward(const LayerPlans& plans, Communicator& world, const at::Tensor& e_nD,
                             bool training) = 0;
  /// Sets the parameters' .grad(), which must be undefined before, and the low-rank part of
  /// `gradient` (whose factor is the neck's weight itself: to be used before that moves) or its
  /// dense part, over the rows given to forward. Collective.
  virtual void backward(const at::Tensor& grad_g_tr, EmbeddingGradient& gradient) = 0;
  /// Sets data-dependent initial weights; seeded ones are set at construction. Collective.
  virtual void initialize(const GraphPlan&, Communicator&, const at::Tensor& /*e_nD*/) {}
  virtual const std::vector<Parameter>& parameters() const = 0;
  /// Numbers that forward and backward hold at once under these plans: for predictions of memory.
  virtual std::int64_t held_numbers(const LayerPlans& plans) const = 0;
};

/// Null for type "none". `options`: type and device of the parameters. Throws ConfigError.
std::unique_ptr<Gnn> make_gnn(const GnnConfig& config, std::int64_t embedding_width,
                              const at::TensorOptions& options, std::uint64_t seed);

/// The config with its defaults filled in (layers; hidden, where the type has it). Throws
/// ConfigError for what the type cannot have.
GnnConfig resolved(GnnConfig config, std::int64_t embedding_width);

/// z = s·g/max(‖g‖, 1e-12), 0 where `degree` is 0. g_Sr, degree_S (i32) → z_Sr. Differentiable.
at::Tensor normalize_rows(const at::Tensor& g_Sr, const at::Tensor& degree_S, double scale = 0.1);

}  // namespace graphlora
