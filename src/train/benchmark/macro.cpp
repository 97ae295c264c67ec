#include "train/benchmark/macro.hpp"

#include <chrono>
#include <map>

#include "core/error.hpp"
#include "dist/communication.hpp"

namespace graphlora::benchmark {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

StepsRun measure_steps(Job& job, const Repetitions& repetitions, Recommender& model,
                       Stepper& stepper) {
  const ProcessGrid& grid = *model.workspace().grid;
  StepsRun run;
  Measurement step{"step", "", "tokens"}, all{"communication", "all", "bytes"},
      exposed{"communication", "waited for", "bytes"};
  std::map<std::string, std::vector<double>> phases;
  double bytes = 0;
  for (int i = 1; i <= repetitions.warm_up + repetitions.count; ++i) {
    job.set_step(i);
    const auto phases_before = stepper.phase_seconds();
    const Communication before = communication_of(grid);
    grid.world().barrier();
    const double start = now();
    const StepResult result = stepper.step(i);
    synchronize(job.device());
    const double seconds = now() - start;
    if (!result.divergence.empty()) job.agree([&] { throw DataError("{}", result.divergence); });
    if (i <= repetitions.warm_up) continue;
    step.seconds.push_back(seconds);
    const Communication after = communication_of(grid);
    all.seconds.push_back(after.seconds - before.seconds);
    exposed.seconds.push_back(after.exposed - before.exposed);
    bytes += after.bytes - before.bytes;
    for (std::size_t k = 0; k < phases_before.size(); ++k) {
      const auto& [name, so_far] = stepper.phase_seconds()[k];
      phases[name].push_back(so_far - phases_before[k].second);
    }
    run.tokens += result.tokens;
    run.examples += result.examples;
    run.token_imbalance = std::max(run.token_imbalance, result.token_imbalance);
  }
  step.work = static_cast<double>(run.tokens) / repetitions.count;
  all.work = exposed.work = bytes / repetitions.count;
  run.measurements = {step, all, exposed};
  for (const auto& [name, unused] : stepper.phase_seconds())
    run.measurements.push_back({"phase", name, "", 0, 0, phases[name]});
  return run;
}

}  // namespace graphlora::benchmark
