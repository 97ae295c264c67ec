#include "core/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "core/log.hpp"

namespace graphlora {
namespace {

constexpr std::chrono::milliseconds kTerminalInterval{200};
constexpr std::chrono::seconds kPlainInterval{10};
constexpr int kBarWidth = 24;

std::string clock_text(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string short_number(double x) {
  if (x >= 1e9) return fmt::format("{:.2f}G", x / 1e9);
  if (x >= 1e6) return fmt::format("{:.2f}M", x / 1e6);
  if (x >= 1e4) return fmt::format("{:.1f}k", x / 1e3);
  return x >= 100 || x == std::int64_t(x) ? fmt::format("{:.0f}", x) : fmt::format("{:.1f}", x);
}

}  // namespace

Progress::Progress(std::string label, std::int64_t total, std::string unit, bool enabled,
                   std::int64_t first)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      done_(first),
      first_(first),
      enabled_(enabled),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      drawn_(start_) {}

Progress::~Progress() { finish(); }

void Progress::update(std::int64_t done, const std::string& note) {
  used_ = true;
  done_ = done;
  note_ = note;
  if (!enabled_ || finished_) return;
  const auto now = Clock::now();
  if (terminal_ ? now - drawn_ < kTerminalInterval : now - drawn_ < kPlainInterval) return;
  drawn_ = now;
  draw(false);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (enabled_ && used_) draw(true);
}

void Progress::draw(bool last) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done_ - first_) / seconds : 0;
  std::string line = label_ + " ";
  if (total_ > 0) {
    const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
    if (terminal_) {
      const int filled = static_cast<int>(share * kBarWidth);
      line += fmt::format("[{:#<{}}{:.<{}}] ", "", filled, "", kBarWidth - filled);
    }
    line += fmt::format("{:3.0f}% {}/{} {}", 100 * share, short_number(done_), short_number(total_),
                        unit_);
  } else {
    line += fmt::format("{} {}", short_number(done_), unit_);
  }
  line += fmt::format(", {} {}/s, {}", short_number(rate), unit_, clock_text(seconds));
  if (!last && total_ > 0 && rate > 0) {
    line += ", ETA " + clock_text(static_cast<double>(total_ - done_) / rate);
  }
  if (!note_.empty()) line += ", " + note_;
  if (terminal_) {
    log::print(fmt::format("\r\033[K{}{}", line, last ? "\n" : ""));
  } else {
    log::print(line + "\n");
  }
}

}  // namespace graphlora
