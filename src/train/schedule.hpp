// Learning rate over steps, and which parameters train in which stage.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "dist/parameter.hpp"

namespace graphlora {

/// cosine: linear warm-up over `warmup` steps, then cosine from 1 to `floor` at `steps`; constant:
/// 1 throughout.
struct Schedule {
  std::string kind = "cosine";
  std::int64_t warmup = 20, steps = 0;
  double floor = 0.1;
  double factor(std::int64_t step) const;  ///< step from 1
};

/// Stages of training: equal shares of `steps`, one behind the other. adapter: LoRA and the λs;
/// projector: projector, GNN and E; joint: all.
struct Stages {
  std::vector<std::string> names{"joint"};
  std::int64_t steps = 0;
  /// How often the parameters of a placement have been updated when step `step` (from 1) is over:
  /// what AdamW's bias correction counts.
  std::int64_t updates(Placement placement, std::int64_t step) const;
  std::int64_t embedding_updates(std::int64_t step) const;
  bool trains(Placement placement, std::int64_t step) const;
  bool trains_embedding(std::int64_t step) const;
};

}  // namespace graphlora
