add_library(graphlora_warnings INTERFACE)
target_compile_options(graphlora_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-unused-parameter;-Wno-sign-compare;-fno-math-errno>)
