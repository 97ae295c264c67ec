// The MPI library's own name for itself.
#pragma once
#include <string>

namespace graphlora {

/// First line of MPI_Get_library_version, which may be called before MPI is started. Local.
std::string mpi_version();

}  // namespace graphlora
