// Starts this program once more, on a number of ranks.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace graphlora::benchmark {

/// The words that start an MPI job: `given` split at blanks; empty: graphlora-mpirun beside this
/// program, launch/mpirun of the checkout it was built in, else mpirun from PATH.
std::vector<std::string> launcher_words(const std::string& given);

/// Runs `launcher -np ranks PROGRAM arguments` with the environment that this process was started
/// with, what it prints going to stderr, and waits. Throws ConfigError where the launcher can't be
/// started; an Error with the job's exit code where that is not 0 (its message has been printed).
void run_on_ranks(const std::vector<std::string>& launcher, std::int64_t ranks,
                  const std::vector<std::string>& arguments);

}  // namespace graphlora::benchmark
