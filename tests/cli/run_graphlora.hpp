// The real program, by itself or under mpirun.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "support/process.hpp"

namespace graphlora::test {

inline ProcessResult run_graphlora(std::vector<std::string> words, int ranks = 1) {
  words.insert(words.begin(), GRAPHLORA_BINARY);
  if (ranks > 1) {
    const std::vector<std::string> launcher{"env",
                                            "OMPI_ALLOW_RUN_AS_ROOT=1",
                                            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                            "OMPI_MCA_mpi_yield_when_idle=1",
                                            "OMP_NUM_THREADS=1",
                                            MPIEXEC,
                                            "--oversubscribe",
                                            "--bind-to",
                                            "none",
                                            "-np",
                                            std::to_string(ranks)};
    words.insert(words.begin(), launcher.begin(), launcher.end());
  }
  return run_process(words, std::chrono::seconds(120));
}

}  // namespace graphlora::test
