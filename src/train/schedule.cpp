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

}  // namespace graphlora
