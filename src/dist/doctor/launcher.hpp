// MPI and what started the ranks.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/doctor/check.hpp"

namespace graphlora::doctor {

using Environment = std::map<std::string, std::string>;

/// The environment this process was started with: MPI adds to it when it starts.
Environment initial_environment();

/// MPI as it runs.
struct MpiState {
  int ranks = 1;
  int thread_level = 0;  ///< as MPI_Query_thread tells
};
/// MPI must have been started. Local.
MpiState mpi_state(int ranks);

/// Checks of group "MPI": "library", "threads" and "launcher": the launcher started as many
/// processes as MPI has ranks. A launcher of another MPI starts P jobs of one rank instead.
std::vector<Check> check_launcher(const MpiState& state, const Environment& environment);

}  // namespace graphlora::doctor
