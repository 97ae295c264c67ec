// main() of test executables that run under mpirun: rank 0 reports as usual, the others print their
// failures only, and a failure on any rank fails the run.
#pragma once
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "dist/job.hpp"

namespace graphlora::test {

inline Job*& job_slot() {
  static Job* job = nullptr;
  return job;
}
/// The job of this test executable.
inline Job& job() { return *job_slot(); }
inline Communicator& world() { return *job().world(); }

/// Prints nothing but failures, with the rank.
class FailurePrinter : public ::testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    fmt::print(stderr, "rank {}: {}:{}: {}\n", rank_,
               result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
               result.message());
  }

 private:
  int rank_;
};

inline int rank_main(int argc, char** argv) {
  Job job(&argc, &argv);
  job_slot() = &job;
  ::testing::InitGoogleTest(&argc, argv);
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (world().rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(std::make_unique<FailurePrinter>(world().rank()).release());
  }
  const int own = RUN_ALL_TESTS();
  const at::Tensor failed = at::full({1}, own, at::kLong);
  world().all_reduce(failed, ReduceOp::max, Traffic::control).wait();
  return static_cast<int>(failed.item<std::int64_t>());
}

}  // namespace graphlora::test
