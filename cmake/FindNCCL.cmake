# Finds NCCL in any prefix: NCCL_ROOT, CMAKE_PREFIX_PATH, the CUDA toolkit, the wheel beside LibTorch
# (nvidia-nccl-cu13, which has no libnccl.so, only libnccl.so.2). Target: NCCL::NCCL.
set(_hints ${NCCL_ROOT} $ENV{NCCL_ROOT} $ENV{NCCL_HOME})
if(LibTorch_INCLUDE_DIR)
  # The one LibTorch was built with comes first: two NCCLs in one process do not mix.
  list(APPEND _hints "${LibTorch_INCLUDE_DIR}/../../nvidia/nccl")
endif()
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${_hints} PATHS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDA_HOME
          PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${_hints}
             PATHS ${CUDAToolkit_LIBRARY_DIR} ENV CUDA_HOME PATH_SUFFIXES lib lib64)
if(NCCL_INCLUDE_DIR)
  foreach(_part MAJOR MINOR PATCH)
    file(STRINGS "${NCCL_INCLUDE_DIR}/nccl.h" _line REGEX "#define NCCL_${_part}[ \t]+[0-9]+")
    string(REGEX MATCH "[0-9]+$" _${_part} "${_line}")
  endforeach()
  set(NCCL_VERSION "${_MAJOR}.${_MINOR}.${_PATCH}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
if(NCCL_FOUND AND NOT TARGET NCCL::NCCL)
  add_library(NCCL::NCCL UNKNOWN IMPORTED)
  set_target_properties(NCCL::NCCL PROPERTIES
    IMPORTED_LOCATION "${NCCL_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${NCCL_INCLUDE_DIR}")
endif()
