// Runs GoogleTest inside an MPI job: only rank 0 prints, any failing rank fails the run.
#include <gtest/gtest.h>

#include <cstdlib>

#include "dist/job.hpp"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  graphlora::Job job(&argc, &argv);
  if (job.world()->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  return RUN_ALL_TESTS();
}
