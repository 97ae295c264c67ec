// Logging to stderr through spdlog. Rank 0 logs everything, other ranks only warnings and errors
// (prefixed with their rank). Results go to stdout elsewhere, never through here.
#pragma once
#include <spdlog/spdlog.h>

#include <string_view>

namespace graphlora::log {

/// Sets the format, and the level by rank. Call once, after MPI has started; before it, lines are
/// printed as those of rank 0 of 1.
void init(int rank, int world_size);

/// Text to stderr as it stands. What can't be written (a full disk under the log) is lost: that is
/// no reason to end a run.
void print(std::string_view text);

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

}  // namespace graphlora::log
