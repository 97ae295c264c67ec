// Numbers with units, as cluster files have them.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace graphlora::plan {

enum class Unit { bytes, seconds, bytes_per_second, flops_per_second, share, tokens, per_second };

/// "80 GB" → 8e10; "5 us" → 5e-6; "40 %" → 0.4. Throws ConfigError: no number, no unit or one of
/// another kind (the known ones are named), a value that is not above 0 (a share: also over 100 %).
double parse_quantity(const std::string& text, Unit unit);

/// Values between known points, on a logarithmic scale of x; beyond them the nearest one's.
struct Curve {
  std::vector<std::pair<double, double>> points;  ///< by x
  double at(double x) const;
};
/// "256 tokens: 20 %, 1024 tokens: 45 %", with ascending x. Throws ConfigError.
Curve parse_curve(const std::string& text, Unit x, Unit y);

}  // namespace graphlora::plan
