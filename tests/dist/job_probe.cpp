// A small job that ends in the way its first argument asks for; job_test runs it under mpirun.
#include <cerrno>
#include <chrono>
#include <csignal>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <thread>

#include "dist/job.hpp"

namespace graphlora {
namespace {

void fail(const std::string& kind) {
  if (kind == "config") throw ConfigError("--flag is wrong");
  if (kind == "data") throw DataError("file.txt:3: no number");
  if (kind == "communication") throw CommError("a message got lost");
  if (kind == "memory") throw std::bad_alloc();
  if (kind == "system") throw std::system_error(ENOSPC, std::generic_category(), "x");
  if (kind == "json") nlohmann::json::parse("{}").at("x");
  if (kind == "standard") throw std::logic_error("a bug");
  if (kind == "torch") TORCH_CHECK(false, "a bug in shapes");
}

/// The step at which all ranks had seen the signal; −1 if none came.
std::int64_t wait_for_signal(Communicator& world) {
  fmt::print("ready\n");
  std::fflush(stdout);
  for (std::int64_t step = 0; step < 3000; ++step) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const at::Tensor flag = at::full({1}, Job::interrupted() ? 1 : 0, at::kLong);
    world.all_reduce(flag, ReduceOp::max, Traffic::control).wait();
    if (flag.item<std::int64_t>() > 0) return step;
  }
  return -1;
}

bool catches(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler != SIG_DFL;
}

/// job_probe MODE [KIND [RANK…]]: MODE alone|agree|nested: the ranks fail in that way; signal: all
/// wait for one; handlers: tells what is caught, before and after asking for it; threads: tells
/// default_threads.
int run(Job& job, const std::vector<std::string>& words) {
  const int rank = job.world()->rank();
  const std::string& mode = words.at(0);
  const bool fails = std::find(words.begin() + 1, words.end(), std::to_string(rank)) != words.end();
  int code = 0;
  const int failure = job.run([&] {
    if (mode == "alone") {
      job.set_step(7);
      if (fails) {
        // Work under way when the exception comes.
        const at::Tensor x = at::ones({100000});
        const Handle handle = job.world()->all_reduce(x, ReduceOp::sum, Traffic::control);
        fail(words.at(1));
      }
      job.world()->barrier();
    } else if (mode == "agree" || mode == "nested") {
      const auto body = [&] {
        if (fails) fail(words.at(1));
      };
      job.agree(mode == "agree" ? std::function<void()>(body) : [&] { job.agree(body); });
      fmt::print("not reached\n");
    } else if (mode == "signal") {
      job.catch_signals();
      const std::int64_t step = wait_for_signal(*job.world());
      fmt::print("rank {} saved {}\n", rank, step >= 0);
      code = step >= 0 ? 5 : 0;
    } else if (mode == "handlers") {
      for (const char* when : {"before", "after"}) {
        fmt::print("{}: usr1 {} term {} int {}\n", when, catches(SIGUSR1), catches(SIGTERM),
                   catches(SIGINT));
        job.catch_signals();
      }
    } else if (mode == "threads") {
      fmt::print("threads {}\n", default_threads(*job.world()));
    }
  });
  return failure != 0 ? failure : code;
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  graphlora::Job job(&argc, &argv);
  return graphlora::run(job, words);
}
