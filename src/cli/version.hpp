// What this program was built from and runs with.
#pragma once
#include <string>

namespace graphlora {

/// Lines for --version: program and git commit, LibTorch, MPI, METIS.
std::string version_text();

}  // namespace graphlora
