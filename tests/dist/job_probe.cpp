// A small job that ends in the way its first argument asks for; job_test runs it under mpirun.
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <new>
#include <nlohmann/json.hpp>
#include <numeric>
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
  if (kind == "tensor") at::empty({std::int64_t{1} << 50}, at::kByte);
  if (kind == "system") throw std::system_error(ENOSPC, std::generic_category(), "x");
  if (kind == "json") nlohmann::json::parse("{}").at("x");
  if (kind == "standard") throw std::logic_error("a bug");
  if (kind == "kill") raise(SIGKILL);
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

/// Ranks that part: all but rank 1 are in one operation, rank 1 does as `kind` says.
void part(Job& job, const std::string& kind) {
  Communicator& world = *job.world();
  const bool odd = world.rank() == 1;
  const at::Tensor x = at::ones({5});
  for (std::int64_t step = 1; step < 4; ++step) {
    job.set_step(step);
    world.all_reduce(x, ReduceOp::sum, Traffic::metrics).wait();
  }
  if (kind == "stops") {
    if (odd) raise(SIGSTOP);
    world.all_reduce(x, ReduceOp::sum, Traffic::metrics).wait();
  } else if (kind == "operation") {
    if (odd)
      world.barrier();
    else
      world.all_reduce(x, ReduceOp::sum, Traffic::metrics).wait();
  } else if (kind == "size") {
    const at::Tensor y = at::ones({odd ? 3 : 5});
    world.broadcast(y, 0, Traffic::metrics).wait();
  } else if (kind == "root") {
    world.broadcast(x, odd ? 1 : 0, Traffic::metrics).wait();
  } else if (kind == "rows") {
    // Rank 0 sends 3 rows to rank 1, which expects 2.
    const auto rows = [&](std::int64_t from, std::int64_t to) {
      return from == 0 && to == 1 ? 3 : 1;
    };
    std::vector<std::int64_t> send, receive;
    for (int r = 0; r < world.size(); ++r) {
      send.push_back(rows(world.rank(), r));
      receive.push_back(odd && r == 0 ? 2 : rows(r, world.rank()));
    }
    const at::Tensor from = at::ones({std::reduce(send.begin(), send.end()), 40000});
    const at::Tensor to = at::ones({std::reduce(receive.begin(), receive.end()), 40000});
    world.all_to_all_rows(from, send, to, receive, Traffic::halo).wait();
    world.barrier();
  } else if (kind == "end") {
    if (odd) raise(SIGSTOP);
  } else if (kind == "axis") {
    const auto half = world.split(world.rank() % 2, world.rank());
    half->name_axis("data");
    if (odd) raise(SIGSTOP);
    half->all_reduce(x, ReduceOp::sum, Traffic::metrics).wait();
    // Late, so that rank 3 is the one to find out.
    std::this_thread::sleep_for(std::chrono::seconds(10));
    world.barrier();
  } else if (kind == "agree") {
    job.agree([&] {
      if (odd) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
        volatile double work = 1;
        while (std::chrono::steady_clock::now() < end) work = work * 1.0000001;
      }
    });
    fmt::print("agreed\n");
  }
}

/// job_probe MODE [KIND [RANK…]]: MODE alone|agree|nested: the ranks fail in that way; signal: all
/// wait for one; handlers: tells what is caught, before and after asking for it; threads: tells
/// default_threads; part: rank 1 leaves the others, in the way KIND.
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
    } else if (mode == "part") {
      part(job, words.at(1));
    } else if (mode == "threads") {
      fmt::print("threads {}\n", default_threads(*job.world()));
    }
  });
  return failure != 0 ? failure : code;
}

}  // namespace
}  // namespace graphlora

/// job_probe guard SECONDS DIR 0|1 MODE …: with a watchdog, and in debug mode or not.
int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  graphlora::JobGuard guard;
  if (words.at(0) == "guard") {
    guard = {std::chrono::seconds(std::stol(words.at(1))), words.at(2), words.at(3) == "1"};
    words.erase(words.begin(), words.begin() + 4);
  }
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (words.size() > 1 && words[1] == "start" && rank != nullptr && std::string(rank) == "1")
    raise(SIGSTOP);
  graphlora::Job job(&argc, &argv, guard);
  return graphlora::run(job, words);
}
