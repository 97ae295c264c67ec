// AdamW and SGD for dense parameters and for the owned rows of E.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dist/parameter.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

struct OptimizerConfig {
  std::string type = "adamw";  ///< adamw | sgd (p ← p − lr·g, no momentum, no decay)
  double lr = 1e-3;            ///< of everything whose own rate below is negative
  double lr_lora = -1, lr_projector = -1, lr_gnn = -1, lr_embedding = -1;
  double weight_decay = 0.0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double rate(Placement placement) const;
  double embedding_rate() const { return lr_embedding >= 0 ? lr_embedding : lr; }
};

class Optimizer {
 public:
  struct State {
    at::Tensor exp_avg, exp_avg_sq;
  };
  Optimizer(std::vector<Parameter> parameters, const OptimizerConfig& config);

  /// One update with the gradients in place (undefined: zero), learning rates times `factor`.
  /// `updates`: how many updates of this parameter there are with this one (bias correction); 0: it
  /// stays as it is. Gradients are then dropped. Local.
  void step(double factor, const std::function<std::int64_t(const Parameter&)>& updates);
  /// Per-element AdamW without decay for every owned row (or sgd), in one pass over E and its
  /// moments that makes the gradient as it goes; no n x D temporary. A row's bits depend on that
  /// row and its gradient alone. `updates`: how many there are with this one (bias correction),
  /// from 1. Local.
  void step_embedding(EmbeddingTable& table, const EmbeddingGradient& gradient,
                      std::int64_t updates, double factor) const;

  const std::vector<Parameter>& parameters() const { return parameters_; }
  std::vector<State>& states() { return states_; }
  const OptimizerConfig& config() const { return config_; }

 private:
  std::vector<Parameter> parameters_;
  std::vector<State> states_;
  OptimizerConfig config_;
};

}  // namespace graphlora
