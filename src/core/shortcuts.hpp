// The ways in which a step is faster than its plain form, each with a switch: what is off takes the
// plain path, whose result is the same but for rounding. For tests, comparisons and the search for
// a fault.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace graphlora {

/// docs/performance.md says what each is and what stands in for it.
enum class Shortcut : std::uint8_t {
  // The CPU's vector kernels; in their place ATen's operations and loops of one number at a time.
  attention,
  norms,
  rotary,
  swiglu,
  adapters,
  graph_sums,
  optimizer,
  // What is computed, and when.
  attention_tiles,
  packing,
  products,
  residual,
  last_layer,
  backward,
  embedding_update,
  overlap,
  save,
  count
};

inline constexpr std::size_t kShortcuts = static_cast<std::size_t>(Shortcut::count);
/// By value of Shortcut, as options name them.
inline constexpr std::array<const char*, kShortcuts> kShortcutNames{
    "attention",  "norms",      "rotary",          "swiglu",           "adapters",
    "graph-sums", "optimizer",  "attention-tiles", "packing",          "products",
    "residual",   "last-layer", "backward",        "embedding-update", "overlap",
    "save"};
inline constexpr std::array kVectorKernels{
    Shortcut::attention, Shortcut::norms,      Shortcut::rotary,   Shortcut::swiglu,
    Shortcut::adapters,  Shortcut::graph_sums, Shortcut::optimizer};

/// Whether some PlainPaths alive has turned it off. Of the process: kernels have no configuration.
bool is_off(Shortcut shortcut);

/// How often is_off() said so: plain paths taken. For tests, which would not see a switch that
/// nothing asks.
std::int64_t times_left_out(Shortcut shortcut);

/// Turns shortcuts off for as long as it lives.
class PlainPaths {
 public:
  explicit PlainPaths(std::vector<Shortcut> off);
  /// By name, or "all". Throws ConfigError for others.
  explicit PlainPaths(const std::vector<std::string>& names);
  ~PlainPaths();
  PlainPaths(const PlainPaths&) = delete;
  PlainPaths& operator=(const PlainPaths&) = delete;

 private:
  std::vector<Shortcut> off_;
};

}  // namespace graphlora
