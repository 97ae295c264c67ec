// Learning rate over steps, and which parameters train in which stage.
#pragma once
#include <cstdint>
#include <string>

namespace graphlora {

/// cosine: linear warm-up over `warmup` steps, then cosine from 1 to `floor` at `steps`; constant:
/// 1 throughout.
struct Schedule {
  std::string kind = "cosine";
  std::int64_t warmup = 20, steps = 0;
  double floor = 0.1;
  double factor(std::int64_t step) const;  ///< step from 1
};

}  // namespace graphlora
