// Where tests make files fail: file.cpp announces here what it is about to do.
#pragma once
#include <filesystem>
#include <functional>

namespace graphlora {

enum class FileStep { create, write, sync, rename, sync_directory, remove };

/// Called before each step on an output file or directory, by the thread that takes it; empty in
/// production. What it throws is that step's failure. To be set while no file is being written.
using FileHook = std::function<void(FileStep, const std::filesystem::path&)>;
extern FileHook file_hook_for_test;

/// For whoever takes such a step.
inline void announce(FileStep step, const std::filesystem::path& path) {
  if (file_hook_for_test) file_hook_for_test(step, path);
}

}  // namespace graphlora
