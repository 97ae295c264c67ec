// What each shortcut of a training step (core/shortcuts.hpp) is worth: steps with all of them, and
// without one at a time, in turns in one process, on real prompts.
//
//   shortcuts DATA CHECKPOINT MODEL [REPEATS, default 3] [BATCH, default 16]
//   mpirun -np P shortcuts …    the same on P ranks
//
// benchmarks/shortcuts_speed makes what it needs.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "core/primitive_cache.hpp"
#include "core/shortcuts.hpp"
#include "train/checkpoint_model.hpp"
#include "train/trainer.hpp"

namespace graphlora {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[values.size() / 2] + values[(values.size() - 1) / 2]) / 2;
}

/// A way to run steps, and how long they took.
struct Variant {
  std::string name;
  std::vector<Shortcut> off;
  TrainConfig config;
  std::unique_ptr<Stepper> stepper;
  std::vector<double> seconds;
};

void measure(Job& job, Recommender& model, int repeats, std::int64_t batch) {
  std::vector<std::unique_ptr<Variant>> variants;
  const auto add = [&](std::string name, std::vector<Shortcut> off) -> Variant& {
    Variant& variant = *variants.emplace_back(std::make_unique<Variant>());
    variant.name = std::move(name);
    variant.off = std::move(off);
    variant.config.batch_size = batch;
    return variant;
  };
  add("all of them", {});
  for (std::size_t i = 0; i < kShortcuts; ++i) {
    const auto shortcut = static_cast<Shortcut>(i);
    // No step saves here, and with a projector the backward has nowhere to end early.
    if (shortcut != Shortcut::save && shortcut != Shortcut::backward)
      add(kShortcutNames[i], {shortcut});
  }
  add("packs (--micro-batch 1)", {}).config.micro_batch = 1;
  add("the shared prefix", {}).config.shared_prefix = false;
  for (const auto& variant : variants)
    variant->stepper = std::make_unique<Stepper>(model, variant->config, repeats + 1);
  for (int step = 0; step <= repeats; ++step) {  // the first one warms up
    for (const auto& variant : variants) {
      const PlainPaths plain(variant->off);
      job.world()->barrier();
      const auto start = std::chrono::steady_clock::now();
      variant->stepper->step(step + 1);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      if (step > 0) variant->seconds.push_back(seconds.count());
    }
  }
  if (job.world()->rank() != 0) return;
  const double base = median(variants.front()->seconds);
  for (const auto& variant : variants) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < variant->seconds.size(); ++i)
      ratios.push_back(variant->seconds[i] / variants.front()->seconds[i]);
    const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    fmt::print("{:<32} {:8.3f} s a step, {:.2f} x ({:.2f} to {:.2f})\n",
               variant == variants.front() ? "with all shortcuts" : "without " + variant->name,
               median(variant->seconds), median(variant->seconds) / base, *least, *most);
  }
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  using namespace graphlora;
  bound_primitive_cache();
  Job job(&argc, &argv);
  return job.run([&] {
    const int repeats = argc > 4 ? std::atoi(argv[4]) : 3;
    const std::int64_t batch = argc > 5 ? std::atoll(argv[5]) : 16;
    if (argc < 4 || repeats < 1 || batch < 1) {
      fmt::print(stderr, "usage: shortcuts DATA CHECKPOINT MODEL [REPEATS] [BATCH]\n");
      std::exit(2);
    }
    CheckpointModel loaded(job, argv[1], argv[2], argv[3], "");
    if (job.world()->rank() == 0) {
      fmt::print("{} ranks of {} threads, {}, {} examples a step, medians of {}\n",
                 job.world()->size(), at::get_num_threads(), loaded.model().config().precision,
                 batch, repeats);
    }
    measure(job, loaded.model(), repeats, batch);
  });
}
