// Everything about a step's global batch that all ranks must agree on, derived from (seed, step)
// alone.
#pragma once
#include <cstdint>
#include <vector>

#include "data/prompt.hpp"
#include "train/sampler.hpp"

namespace graphlora {

/// B examples of the global batch, in the sampler's order.
struct StepPlan {
  Batch batch;
  std::vector<std::int32_t> template_B;
  std::vector<std::int64_t> length_B;  ///< tokens
  std::vector<std::int64_t>
      prefix_stream_B;  ///< dropout stream before {title} and {item}: lowest row of the batch with
                        ///< the same user, history and template
  std::vector<std::vector<std::size_t>> shares;  ///< examples of each replica
};
/// With `shared_prefix` examples that begin alike go to one replica where balance allows.
StepPlan plan_step(const Sampler& sampler, const PromptBuilder& prompts, const Dataset& dataset,
                   std::uint64_t seed, std::int64_t step, int replicas, bool shared_prefix);

/// Whether an anchor is treated as unknown in this step (E and z zeroed), with probability `rate`:
/// keyed by (step, user) for the user's, by (step, row) for the item's.
bool user_is_unknown(std::uint64_t seed, std::int64_t step, std::int64_t user, double rate);
bool item_is_unknown(std::uint64_t seed, std::int64_t step, std::int64_t row, double rate);

}  // namespace graphlora
