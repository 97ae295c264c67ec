#include "train/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.hpp"

namespace graphlora {

double Schedule::factor(std::int64_t step) const {
  if (kind == "constant") return 1;
  if (kind != "cosine") {
    throw ConfigError("optim.schedule: must be cosine or constant, got '{}'", kind);
  }
  if (step <= warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  if (step >= steps) return floor;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
  return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

namespace {

bool is_graph_side(Placement placement) {
  return placement == Placement::projector || placement == Placement::gnn;
}

bool stage_trains(const std::string& stage, bool graph_side) {
  return stage == "joint" || graph_side == (stage == "projector");
}

/// Updates up to and with `step` of one side.
std::int64_t count_updates(const Stages& stages, bool graph_side, std::int64_t step) {
  const auto count = static_cast<std::int64_t>(stages.names.size());
  // Stage k holds the steps s with ⌊(s − 1)·count / steps⌋ = k; the last one goes on for ever.
  const auto begin = [&](std::int64_t k) { return (k * stages.steps + count - 1) / count; };
  std::int64_t updates = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    if (!stage_trains(stages.names[k], graph_side)) continue;
    const std::int64_t end = k + 1 < count ? std::min(begin(k + 1), step) : step;
    updates += std::max<std::int64_t>(0, end - begin(k));
  }
  return updates;
}

}  // namespace

std::int64_t Stages::updates(Placement placement, std::int64_t step) const {
  return count_updates(*this, is_graph_side(placement), step);
}

std::int64_t Stages::embedding_updates(std::int64_t step) const {
  return count_updates(*this, /*graph_side=*/true, step);
}

bool Stages::trains(Placement placement, std::int64_t step) const {
  return updates(placement, step) > updates(placement, step - 1);
}

bool Stages::trains_embedding(std::int64_t step) const {
  return embedding_updates(step) > embedding_updates(step - 1);
}

}  // namespace graphlora
