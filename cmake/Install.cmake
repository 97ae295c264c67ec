# cmake --install gives a tree that can be moved: bin/graphlora finds LibTorch where it was at build time or
# beside itself (lib/); configurations, documents and the scripts that need no checkout stand in
# share/graphlora.
include(GNUInstallDirs)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}" "${LibTorch_LIBRARY_DIR}")
# Libraries of other prefixes (modules, conda) are found where they were at build time.
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)

function(graphlora_install_all)
  install(TARGETS graphlora_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(PROGRAMS ${PROJECT_SOURCE_DIR}/launch/mpirun DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME graphlora-mpirun)
  foreach(folder configs docs slurm)
    if(EXISTS ${PROJECT_SOURCE_DIR}/${folder})
      install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_DATADIR}/graphlora
              USE_SOURCE_PERMISSIONS)
    endif()
  endforeach()
  set(scripts fetch_model.py fetch_movielens.py pypi.py summarize.py requirements.txt)
  list(TRANSFORM scripts PREPEND ${PROJECT_SOURCE_DIR}/launch/)
  install(FILES ${scripts} DESTINATION ${CMAKE_INSTALL_DATADIR}/graphlora/launch)
  install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/CHANGELOG.md
          DESTINATION ${CMAKE_INSTALL_DATADIR}/graphlora)
endfunction()
