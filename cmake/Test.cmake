# graphlora_add_test(name RANKS 1 2 4): registers the test executable NAME_test once per rank count.
# One rank runs without mpirun; more run under it, oversubscribed, one thread each. With AS and FILTER
# the test is called AS.npN and runs only what GoogleTest's filter takes.
function(graphlora_add_test name)
  cmake_parse_arguments(arg "" "TIMEOUT;AS;FILTER" "RANKS;LABELS" ${ARGN})
  if(NOT arg_RANKS)
    set(arg_RANKS 1)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(GRAPHLORA_CUDA STREQUAL "ON")  # suites over devices run up to three times
    math(EXPR arg_TIMEOUT "3 * ${arg_TIMEOUT}")
  endif()
  set(filter "")
  if(arg_FILTER)
    set(filter "--gtest_filter=${arg_FILTER}")
  endif()
  if(NOT arg_AS)
    set(arg_AS ${name})
  endif()
  foreach(ranks IN LISTS arg_RANKS)
    set(test "${arg_AS}.np${ranks}")
    if(ranks EQUAL 1)
      add_test(NAME ${test} COMMAND ${name}_test ${filter} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    else()
      add_test(NAME ${test} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
        COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none -np ${ranks}
                $<TARGET_FILE:${name}_test> ${filter})
    endif()
    set_tests_properties(${test} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}"
      PROCESSORS 1
      ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_mpi_yield_when_idle=1;OMP_NUM_THREADS=1;GTEST_COLOR=no;OMPI_MCA_rmaps_base_oversubscribe=1;UBSAN_OPTIONS=print_stacktrace=1;ASAN_OPTIONS=detect_leaks=0")
  endforeach()
endfunction()
