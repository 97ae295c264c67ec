// Time of loading a model's weights as T ranks of one host do it at once, each its slices with an
// equal part of the threads, against one process that loads all of it.
//
//   model_load DIR [THREADS] [REPEATS]
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/error.hpp"
#include "model/hf_checkpoint.hpp"
#include "model/model_slice.hpp"

namespace graphlora {
namespace {

struct Outcome {
  double seconds = INFINITY;
  std::uint64_t bytes_read = 0;
};

/// Loads as rank `rank` of `size` and writes what it took into the pipe.
void load(const std::filesystem::path& directory, int size, int rank, int threads, int pipe) {
  at::set_num_threads(std::max(1, threads / size));
  const auto start = std::chrono::steady_clock::now();
  const HfCheckpoint checkpoint(directory);
  const BaseWeights weights = checkpoint.load({at::kBFloat16, at::kFloat}, 1, 2,
                                              ModelSlice::of(checkpoint.config(), size, rank));
  const Outcome outcome{
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
      weights.bytes_read};
  if (write(pipe, &outcome, sizeof outcome) != sizeof outcome) std::abort();
}

/// The slowest of `size` processes that load at once, and the most that one of them read.
Outcome run(const std::filesystem::path& directory, int size, int threads) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  // Each process is fresh: threads of LibTorch do not survive a fork, and must not exist before it.
  for (int rank = 0; rank < size; ++rank) {
    if (fork() != 0) continue;
    try {
      load(directory, size, rank, threads, ends[1]);
    } catch (const std::exception& error) {
      fmt::print(stderr, "{}\n", error.what());
    }
    _exit(0);
  }
  close(ends[1]);
  Outcome slowest{0, 0}, one;
  for (int rank = 0; rank < size; ++rank) {
    if (read(ends[0], &one, sizeof one) != sizeof one) std::exit(1);
    slowest.seconds = std::max(slowest.seconds, one.seconds);
    slowest.bytes_read = std::max(slowest.bytes_read, one.bytes_read);
  }
  close(ends[0]);
  while (wait(nullptr) > 0) {
  }
  return slowest;
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  using namespace graphlora;
  if (argc < 2) {
    fmt::print(stderr, "usage: model_load DIR [THREADS] [REPEATS]\n");
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2,
            repeats = argc > 3 ? std::atoi(argv[3]) : 5;
  std::vector<Outcome> best(3);
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first one warms the page cache
    for (int i = 0; i < 3; ++i) {
      const Outcome outcome = run(argv[1], i + 1, threads);
      if (repeat >= 0 && outcome.seconds < best[i].seconds) best[i] = outcome;
    }
  }
  for (int i = 0; i < 3; ++i) {
    fmt::print("T = {}: {:.3f} s, {:.1f} MB a rank\n", i + 1, best[i].seconds,
               static_cast<double>(best[i].bytes_read) / 1e6);
  }
}
