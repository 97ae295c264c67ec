#include "train/metrics_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace graphlora {
namespace {

bool is_ours(const nlohmann::json& line) {
  return line.is_object() && line.contains("step") && line["step"].is_number_integer();
}

/// Whether a line is of what the state has seen.
bool belongs(const nlohmann::json& line, const TrainingState& state) {
  if (!is_ours(line)) return false;
  // A step is saved before it is validated, where a signal came between.
  return line["step"] <= (line.contains("split") ? state.evaluated_step : state.step);
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& path, const TrainingState& state)
    : path_(path) {
  std::string kept;
  if (path_exists(path)) {
    std::ifstream old(path);
    std::int64_t number = 0;
    for (std::string line; std::getline(old, line);) {
      ++number;
      const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      // The last line may be the half of one.
      if (state.step == 0 && !old.eof() && !is_ours(json)) {
        throw DataError(
            "{}:{}: was not written by this program; move the file away, or give "
            "another --output",
            path.string(), number);
      }
      if (belongs(json, state)) kept += line + "\n";
    }
  }
  write_file(path, kept);
  size_ = static_cast<std::int64_t>(kept.size());
  file_ = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (file_ < 0) throw DataError("{}: cannot open: {}", path.string(), std::strerror(errno));
}

MetricsLog::~MetricsLog() { close(file_); }

void MetricsLog::write(const nlohmann::ordered_json& line) {
  const std::lock_guard lock(mutex_);
  pending_ += line.dump() + "\n";
  flush();
}

void MetricsLog::flush() {
  if (pending_.empty()) return;
  const ssize_t written = ::write(file_, pending_.data(), pending_.size());
  if (written == static_cast<ssize_t>(pending_.size())) {
    size_ += written;
    pending_.clear();
    cause_.clear();
    return;
  }
  const bool first = cause_.empty();
  cause_ = written < 0 ? std::strerror(errno) : "no space for a whole line";
  if (first)
    log::warn("{}: cannot write: {}; trying again with every step", path_.string(), cause_);
  // Without the part of a line; if that fails too, a resumed run drops it.
  if (written > 0 && ftruncate(file_, size_) != 0) size_ += written;
}

void MetricsLog::sync() {
  require_complete();
  if (fdatasync(file_) != 0)
    throw DataError("{}: cannot sync: {}", path_.string(), std::strerror(errno));
}

void MetricsLog::require_complete() {
  const std::lock_guard lock(mutex_);
  flush();
  if (!pending_.empty())
    throw DataError("{}: the last lines are missing: {}", path_.string(), cause_);
}

}  // namespace graphlora
