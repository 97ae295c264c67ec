#include "cli/version.hpp"

#include <fmt/format.h>
#include <torch/version.h>

#include "cli/git_commit.hpp"
#include "dist/mpi_version.hpp"

namespace graphlora {

std::string version_text() {
  const std::string commit = GRAPHLORA_GIT_COMMIT;
  return fmt::format("graphlora {}{}\nLibTorch {}\nMPI      {}\nMETIS    {}\n", GRAPHLORA_VERSION,
                     commit.empty() ? "" : " (commit " + commit + ")", TORCH_VERSION, mpi_version(),
                     GRAPHLORA_METIS_VERSION);
}

}  // namespace graphlora
