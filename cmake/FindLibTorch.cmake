# Finds LibTorch (a Python wheel or the C++ archive) without requiring CUDA.
#
# Searched: LibTorch_ROOT or Torch_DIR alone where one is given; else the project's own .venv, then
# CMAKE_PREFIX_PATH, then the active virtual or conda environment. TorchConfig.cmake is not used: that
# of a CUDA build refuses to load on a machine without a CUDA toolkit, while its libtorch_cpu serves
# there well.
#
# Targets: LibTorch::cpu (torch_cpu, c10), LibTorch::c10_cuda (streams and guards), LibTorch::cuda
# (torch_cuda). The last two exist only where every library they need is installed; otherwise
# LibTorch_CUDA_REASON says what is missing. LibTorch_CUDA_VERSION: the CUDA it was built with, if
# known. LibTorch_OPENMP_LIBRARY: the OpenMP runtime it carries, if any.

# Sets `version` and `cuda` to those of the LibTorch in a folder, or to nothing.
function(_libtorch_version folder version cuda)
  set(text "")
  set(${version} "" PARENT_SCOPE)
  set(${cuda} "" PARENT_SCOPE)
  foreach(name build-version version.py)
    if(EXISTS "${folder}/${name}")
      file(READ "${folder}/${name}" text)
    endif()
  endforeach()
  if(text MATCHES "[0-9]+\\.[0-9]+\\.[0-9]+")
    set(${version} "${CMAKE_MATCH_0}" PARENT_SCOPE)
  endif()
  if(text MATCHES "(\\+cu|\ncuda[^=]*= ')([0-9]+)\\.?([0-9])")
    set(${cuda} "${CMAKE_MATCH_2}.${CMAKE_MATCH_3}" PARENT_SCOPE)
  endif()
endfunction()

# Sets `result` to the torch folders of a Python environment that are new enough.
function(_libtorch_in environment result)
  set(folders "")
  if(environment)
    file(GLOB folders "${environment}/lib/python3*/site-packages/torch")
  endif()
  set(good "")
  foreach(folder IN LISTS folders)
    _libtorch_version("${folder}" version cuda)
    if(version VERSION_GREATER_EQUAL "${LibTorch_FIND_VERSION}")
      list(APPEND good "${folder}")
    endif()
  endforeach()
  set(${result} "${good}" PARENT_SCOPE)
endfunction()

# What an earlier run found is searched again where it is gone or too old: an environment made anew may
# have another Python.
if(LibTorch_INCLUDE_DIR)
  get_filename_component(_root "${LibTorch_INCLUDE_DIR}" DIRECTORY)
  _libtorch_version("${_root}" _version _cuda)
  if(NOT EXISTS "${LibTorch_INCLUDE_DIR}/ATen/ATen.h" OR
     (_version AND _version VERSION_LESS "${LibTorch_FIND_VERSION}"))
    foreach(_name INCLUDE_DIR CPU_LIBRARY C10_LIBRARY CUDA_LIBRARY C10_CUDA_LIBRARY)
      unset(LibTorch_${_name} CACHE)
    endforeach()
  endif()
endif()
set(_given ${LibTorch_ROOT} $ENV{LibTorch_ROOT})
if(Torch_DIR)
  list(APPEND _given "${Torch_DIR}/../../..")
endif()
if(_given)
  find_path(LibTorch_INCLUDE_DIR NAMES ATen/ATen.h HINTS ${_given} PATH_SUFFIXES include torch/include
            NO_DEFAULT_PATH)
else()
  _libtorch_in("${PROJECT_SOURCE_DIR}/.venv" _own)
  _libtorch_in("$ENV{VIRTUAL_ENV}" _virtual)
  _libtorch_in("$ENV{CONDA_PREFIX}" _conda)
  find_path(LibTorch_INCLUDE_DIR NAMES ATen/ATen.h HINTS ${_own} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(LibTorch_INCLUDE_DIR NAMES ATen/ATen.h PATHS ${_virtual} ${_conda}
            PATH_SUFFIXES include torch/include)
endif()
get_filename_component(_root "${LibTorch_INCLUDE_DIR}" DIRECTORY)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS "${_root}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS "${_root}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS "${_root}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS "${_root}/lib" NO_DEFAULT_PATH)
file(GLOB LibTorch_OPENMP_LIBRARY "${_root}/lib/libgomp*.so*")
_libtorch_version("${_root}" LibTorch_VERSION LibTorch_CUDA_VERSION)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run launch/setup, or set LibTorch_ROOT to the torch folder of a wheel or archive")
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY
                 LibTorch_CUDA_LIBRARY LibTorch_C10_CUDA_LIBRARY)
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
