// What the shared prefix is worth with a real model and real prompts, each with it and without it
// in turns: scoring 50 items of one user, and training steps with blocks of 1, 4 and 8 rows.
//
//   shared_prefix DATA CHECKPOINT MODEL [REPEATS] [BATCH]
//
// The user scored is the one with the most rows at one time, which share their history
// (benchmarks/shared_prefix_speed makes data with such a user, and the rest). BATCH 0: only
// scoring.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "core/primitive_cache.hpp"
#include "train/checkpoint_model.hpp"
#include "train/evaluate.hpp"
#include "train/trainer.hpp"

namespace graphlora {
namespace {

constexpr std::int64_t kItems = 50, kMicroBatch = 4096;

template <class Body>
double seconds_of(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[values.size() / 2] + values[(values.size() - 1) / 2]) / 2;
}

/// Rows with one user and one time: the most there are, at most kItems of them.
std::vector<std::int64_t> rows_of_one_user(const Dataset& dataset) {
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::int64_t>> together;
  for (std::int64_t row = 0; row < dataset.rows(); ++row)
    together[{dataset.user()[row], dataset.time()[row]}].push_back(row);
  std::vector<std::int64_t> most;
  for (auto& [key, rows] : together)
    if (rows.size() > most.size()) most = std::move(rows);
  most.resize(std::min<std::size_t>(most.size(), kItems));
  return most;
}

void scoring(Recommender& model, int repeats) {
  const auto rows = rows_of_one_user(*model.workspace().dataset);
  const PromptBuilder& prompts = model.prompts();
  std::int64_t tokens = 0, computed = 0;
  std::vector<Prompt> built;
  std::vector<std::int64_t> streams;
  for (const std::int64_t row : rows) {
    built.push_back(prompts.build(row, 0));
    streams.push_back(row);
    tokens += std::ssize(built.back().tokens);
  }
  for (const Pack& pack : make_packs(built, streams, kMicroBatch, Sharing::inference))
    computed += pack.tokens();
  std::vector<double> shared, plain;
  double difference = 0;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first one warms up
    std::vector<float> a, b;
    const double together = seconds_of([&] { a = score_rows(model, rows, kMicroBatch, "shared"); });
    const double apart = seconds_of(
        [&] { b = score_rows(model, rows, kMicroBatch, "unshared", false, /*shared=*/false); });
    for (std::size_t i = 0; i < a.size(); ++i)
      difference = std::max(difference, static_cast<double>(std::abs(a[i] - b[i])));
    if (repeat < 0) continue;
    shared.push_back(together);
    plain.push_back(apart);
  }
  fmt::print(
      "scoring {} items of one user: {} tokens, {} computed ({:.2f} times fewer)\n"
      "  unshared {:.3f} s, shared {:.3f} s (medians of {}), ratio {:.2f}; scores differ by at "
      "most "
      "{:.2g}\n",
      rows.size(), tokens, computed, static_cast<double>(tokens) / static_cast<double>(computed),
      median(plain), median(shared), repeats, median(plain) / median(shared), difference);
}

void training(Recommender& model, int repeats, std::int64_t batch) {
  struct Run {
    TrainConfig config;
    std::unique_ptr<Stepper> stepper;
    std::int64_t tokens = 0, computed = 0;
    std::vector<double> rates, example_rates;
  };
  std::vector<std::unique_ptr<Run>> runs;
  for (const std::int64_t block : {1, 4, 8}) {
    for (const bool shared : {false, true}) {
      Run& run = *runs.emplace_back(std::make_unique<Run>());
      run.config.batch_size = batch;
      run.config.micro_batch = kMicroBatch;
      run.config.block = block;
      run.config.shared_prefix = shared;
      run.stepper = std::make_unique<Stepper>(model, run.config, repeats + 1);
    }
  }
  for (int step = 0; step <= repeats; ++step) {  // the first one warms up
    for (const auto& run : runs) {
      StepResult result;
      const double seconds = seconds_of([&] { result = run->stepper->step(step + 1); });
      if (step == 0) continue;
      run->tokens += result.tokens;
      run->computed += result.computed_tokens;
      run->rates.push_back(static_cast<double>(result.tokens) / seconds);
      run->example_rates.push_back(static_cast<double>(result.examples) / seconds);
    }
  }
  fmt::print("training steps of {} examples, medians of {}; tokens are the prompts'\n", batch,
             repeats);
  const double base = median(runs[0]->rates);
  for (const auto& run : runs) {
    fmt::print(
        "  block {} {:<9} {:7.0f} tokens/s {:7.2f} examples/s, {:3.0f} % of the tokens computed, "
        "{:.2f} x\n",
        run->config.block, run->config.shared_prefix ? "shared" : "unshared", median(run->rates),
        median(run->example_rates),
        100.0 * static_cast<double>(run->computed) / static_cast<double>(run->tokens),
        median(run->rates) / base);
  }
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  using namespace graphlora;
  bound_primitive_cache();
  Job job(&argc, &argv);
  return job.run([&] {
    if (argc < 4) {
      fmt::print(stderr, "usage: shared_prefix DATA CHECKPOINT MODEL [REPEATS] [BATCH]\n");
      std::exit(2);
    }
    const int repeats = argc > 4 ? std::atoi(argv[4]) : 5;
    CheckpointModel loaded(job, argv[1], argv[2], argv[3], "");
    fmt::print("{} threads, {}\n", at::get_num_threads(), loaded.model().config().precision);
    scoring(loaded.model(), repeats);
    std::fflush(stdout);  // what follows takes longer
    const int batch = argc > 5 ? std::atoi(argv[5]) : 64;
    if (batch > 0) training(loaded.model(), repeats, batch);
  });
}
