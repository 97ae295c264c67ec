#include "core/shortcuts.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>

#include "core/error.hpp"

namespace graphlora {
namespace {

std::array<std::atomic<int>, kShortcuts> turned_off{};
std::array<std::atomic<std::int64_t>, kShortcuts> left_out{};

std::atomic<int>& counter_of(Shortcut shortcut) {
  return turned_off[static_cast<std::size_t>(shortcut)];
}

std::vector<Shortcut> named(const std::vector<std::string>& names) {
  std::vector<Shortcut> shortcuts;
  for (const std::string& name : names) {
    const auto found = std::find(kShortcutNames.begin(), kShortcutNames.end(), name);
    if (found == kShortcutNames.end() && name != "all") {
      throw ConfigError("--train.plain {}: must be of {}, or all", name,
                        fmt::join(kShortcutNames, ", "));
    }
    for (std::size_t i = 0; i < kShortcuts; ++i)
      if (name == "all" || name == kShortcutNames[i]) shortcuts.push_back(static_cast<Shortcut>(i));
  }
  return shortcuts;
}

}  // namespace

bool is_off(Shortcut shortcut) {
  if (counter_of(shortcut).load(std::memory_order_relaxed) == 0) return false;
  left_out[static_cast<std::size_t>(shortcut)].fetch_add(1, std::memory_order_relaxed);
  return true;
}

std::int64_t times_left_out(Shortcut shortcut) {
  return left_out[static_cast<std::size_t>(shortcut)].load(std::memory_order_relaxed);
}

PlainPaths::PlainPaths(std::vector<Shortcut> off) : off_(std::move(off)) {
  for (const Shortcut shortcut : off_) ++counter_of(shortcut);
}

PlainPaths::PlainPaths(const std::vector<std::string>& names) : PlainPaths(named(names)) {}

PlainPaths::~PlainPaths() {
  for (const Shortcut shortcut : off_) --counter_of(shortcut);
}

}  // namespace graphlora
