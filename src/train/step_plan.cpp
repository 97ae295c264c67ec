#include "train/step_plan.hpp"

#include <map>
#include <tuple>

#include "core/rng.hpp"

namespace graphlora {
namespace {

double uniform(std::uint64_t seed, const char* purpose, std::int64_t step, std::int64_t id) {
  return SplitMix64(hash_name(seed, purpose) + splitmix64(splitmix64(step) + id)).uniform();
}

}  // namespace

StepPlan plan_step(const Sampler& sampler, const PromptBuilder& prompts, const Dataset& dataset,
                   std::uint64_t seed, std::int64_t step, int replicas, bool shared_prefix) {
  StepPlan plan;
  plan.batch = sampler.batch(step);
  using Prefix = std::tuple<std::int64_t, std::uint64_t, std::int32_t>;  // user, history, template
  std::map<Prefix, std::int64_t> lowest;
  std::vector<Prefix> prefix_B;
  std::vector<ExampleCost> cost_B;
  for (const std::int64_t row : plan.batch.rows) {
    plan.template_B.push_back(prompts.draw_template(row, seed, plan.batch.epoch));
    const PromptBuilder::Extent extent = prompts.extent(row, plan.template_B.back());
    plan.length_B.push_back(extent.tokens);
    cost_B.push_back({extent.tokens, extent.private_from, cost_B.size()});
    prefix_B.emplace_back(dataset.user()[row], prompts.history_hash(row), plan.template_B.back());
    const auto [entry, added] = lowest.try_emplace(prefix_B.back(), row);
    if (!added) entry->second = std::min(entry->second, row);
  }
  // Titles dropped for max_tokens may differ between examples with the same history.
  std::map<std::pair<Prefix, std::int64_t>, std::size_t> groups;
  for (std::size_t i = 0; i < prefix_B.size(); ++i) {
    plan.prefix_stream_B.push_back(lowest.at(prefix_B[i]));
    if (shared_prefix)
      cost_B[i].group = groups.try_emplace({prefix_B[i], cost_B[i].shared}, i).first->second;
  }
  plan.shares = deal(cost_B, replicas);
  return plan;
}

bool user_is_unknown(std::uint64_t seed, std::int64_t step, std::int64_t user, double rate) {
  return uniform(seed, "unknown user", step, user) < rate;
}

bool item_is_unknown(std::uint64_t seed, std::int64_t step, std::int64_t row, double rate) {
  return uniform(seed, "unknown item", step, row) < rate;
}

}  // namespace graphlora
