#include "core/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

namespace graphlora::log {

void init(int rank, int world_size) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>("graphlora", std::move(sink));
  const std::string who = world_size > 1 && rank > 0 ? " rank " + std::to_string(rank) : "";
  logger->set_pattern(isatty(STDERR_FILENO) ? "%^%l%$" + who + ": %v"
                                            : "%H:%M:%S %l" + who + ": %v");
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace graphlora::log
