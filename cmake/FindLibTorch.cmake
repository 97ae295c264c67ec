# Finds LibTorch (a Python wheel or the C++ archive) without requiring CUDA.
#
# Searched, in this order: LibTorch_ROOT, Torch_DIR, CMAKE_PREFIX_PATH, the active virtual
# environment, the project's own .venv. TorchConfig.cmake is not used: that of a CUDA build refuses
# to load on a machine without a CUDA toolkit, while its libtorch_cpu serves there well.
#
# Targets: LibTorch::cpu (torch_cpu, c10), LibTorch::c10_cuda (streams and guards), LibTorch::cuda
# (torch_cuda). The last two exist only where every library they need is installed; otherwise
# LibTorch_CUDA_REASON says what is missing. LibTorch_OPENMP_LIBRARY: the OpenMP runtime it carries, if any.
set(_hints ${LibTorch_ROOT} $ENV{LibTorch_ROOT})
if(Torch_DIR)
  list(APPEND _hints "${Torch_DIR}/../../..")
endif()
file(GLOB _venvs "$ENV{VIRTUAL_ENV}/lib/python3*/site-packages/torch"
     "$ENV{CONDA_PREFIX}/lib/python3*/site-packages/torch"
     "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
find_path(LibTorch_INCLUDE_DIR NAMES ATen/ATen.h
          HINTS ${_hints} PATHS ${_venvs} PATH_SUFFIXES include torch/include)
get_filename_component(_root "${LibTorch_INCLUDE_DIR}" DIRECTORY)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS "${_root}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS "${_root}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS "${_root}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS "${_root}/lib" NO_DEFAULT_PATH)
file(GLOB LibTorch_OPENMP_LIBRARY "${_root}/lib/libgomp*.so*")
find_file(LibTorch_VERSION_FILE version.py HINTS "${_root}" NO_DEFAULT_PATH)
if(LibTorch_VERSION_FILE)
  file(STRINGS "${LibTorch_VERSION_FILE}" _line REGEX "^__version__")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" LibTorch_VERSION "${_line}")
elseif(EXISTS "${_root}/build-version")
  file(READ "${_root}/build-version" _line)
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" LibTorch_VERSION "${_line}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run launch/setup, or set LibTorch_ROOT to the torch folder of a wheel or archive")
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY
                 LibTorch_CUDA_LIBRARY LibTorch_C10_CUDA_LIBRARY LibTorch_VERSION_FILE)
if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  set(LibTorch_LIBRARY_DIR "${_root}/lib")
  add_library(LibTorch::c10 UNKNOWN IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION "${LibTorch_C10_LIBRARY}")
  add_library(LibTorch::cpu UNKNOWN IMPORTED)
  # -idirafter: the wheel carries a copy of fmt (headers only, another version) that must not shadow the
  # installed one, whose library spdlog links.
  set_target_properties(LibTorch::cpu PROPERTIES
    IMPORTED_LOCATION "${LibTorch_CPU_LIBRARY}"
    INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${LibTorch_INCLUDE_DIR}/torch/csrc/api/include>;$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${LibTorch_INCLUDE_DIR}>"
    INTERFACE_LINK_LIBRARIES LibTorch::c10)
endif()

# Sets `result` to the libraries a shared library needs and the loader does not find.
function(_libtorch_unresolved library result)
  find_program(LibTorch_LDD ldd)
  mark_as_advanced(LibTorch_LDD)
  set(missing "")
  if(LibTorch_LDD)
    execute_process(COMMAND ${LibTorch_LDD} "${library}" OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCHALL "[^ \t\n]+ => not found" missing "${text}")
    string(REPLACE " => not found" "" missing "${missing}")
    list(REMOVE_DUPLICATES missing)
  endif()
  set(${result} "${missing}" PARENT_SCOPE)
endfunction()

set(LibTorch_CUDA_REASON "a CPU-only LibTorch")
if(LibTorch_FOUND AND LibTorch_CUDA_LIBRARY AND LibTorch_C10_CUDA_LIBRARY AND NOT TARGET LibTorch::c10_cuda)
  _libtorch_unresolved("${LibTorch_C10_CUDA_LIBRARY}" _missing)
  if(NOT _missing)
    add_library(LibTorch::c10_cuda UNKNOWN IMPORTED)
    set_target_properties(LibTorch::c10_cuda PROPERTIES
      IMPORTED_LOCATION "${LibTorch_C10_CUDA_LIBRARY}" INTERFACE_LINK_LIBRARIES LibTorch::cpu)
    _libtorch_unresolved("${LibTorch_CUDA_LIBRARY}" _missing)
    if(NOT _missing)
      add_library(LibTorch::cuda UNKNOWN IMPORTED)
      set_target_properties(LibTorch::cuda PROPERTIES
        IMPORTED_LOCATION "${LibTorch_CUDA_LIBRARY}" INTERFACE_LINK_LIBRARIES LibTorch::c10_cuda)
    endif()
  endif()
  list(JOIN _missing ", " _missing)
  set(LibTorch_CUDA_REASON "not installed: ${_missing}; launch/setup --gpu installs them")
endif()
