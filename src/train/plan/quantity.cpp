#include "train/plan/quantity.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "core/error.hpp"

namespace graphlora::plan {
namespace {

using Names = std::vector<std::pair<std::string, double>>;

const Names& names_of(Unit unit) {
  static const Names bytes{{"B", 1},         {"kB", 1e3},      {"MB", 1e6},
                           {"GB", 1e9},      {"TB", 1e12},     {"KiB", 1 << 10},
                           {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1LL << 40}};
  static const Names seconds{{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  static const Names rates{{"MB/s", 1e6}, {"GB/s", 1e9}, {"TB/s", 1e12}, {"Gbit/s", 0.125e9}};
  static const Names flops{{"GFLOP/s", 1e9}, {"TFLOP/s", 1e12}, {"PFLOP/s", 1e15}};
  static const Names shares{{"%", 0.01}};
  static const Names tokens{{"tokens", 1}};
  static const Names frequencies{{"/s", 1}, {"k/s", 1e3}, {"M/s", 1e6}, {"G/s", 1e9}};
  switch (unit) {
    case Unit::bytes:
      return bytes;
    case Unit::seconds:
      return seconds;
    case Unit::bytes_per_second:
      return rates;
    case Unit::flops_per_second:
      return flops;
    case Unit::share:
      return shares;
    case Unit::tokens:
      return tokens;
    case Unit::per_second:
      break;
  }
  return frequencies;
}

std::string known(Unit unit) {
  std::string text;
  for (const auto& [name, factor] : names_of(unit)) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string trimmed(const std::string& text) {
  const auto begin = text.find_first_not_of(' ');
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

}  // namespace

double parse_quantity(const std::string& given, Unit unit) {
  const std::string text = trimmed(given);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{})
    throw ConfigError("'{}' is no number with a unit, as in 1 {}", text,
                      names_of(unit).back().first);
  const std::string name = trimmed({end, text.data() + text.size()});
  if (name.empty()) throw ConfigError("'{}' has no unit (one of {})", text, known(unit));
  const Names& names = names_of(unit);
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.first == name; });
  if (found == names.end())
    throw ConfigError("'{}': unit '{}' is none of {}", text, name, known(unit));
  value *= found->second;
  if (!std::isfinite(value) || !(value > 0)) throw ConfigError("'{}' must be above 0", text);
  if (unit == Unit::share && value > 1) throw ConfigError("'{}' is over 100 %", text);
  return value;
}

double Curve::at(double x) const {
  if (x <= points.front().first) return points.front().second;
  for (std::size_t i = 1; i < points.size(); ++i) {
    const auto& [x0, y0] = points[i - 1];
    const auto& [x1, y1] = points[i];
    if (x > x1) continue;
    return y0 + (y1 - y0) * std::log(x / x0) / std::log(x1 / x0);
  }
  return points.back().second;
}

Curve parse_curve(const std::string& text, Unit x, Unit y) {
  Curve curve;
  std::istringstream stream(text);
  for (std::string point; std::getline(stream, point, ',');) {
    const std::size_t colon = point.find(':');
    if (colon == std::string::npos)
      throw ConfigError("'{}' is no point of a curve, as in 256 {}: 20 {}", trimmed(point),
                        names_of(x).back().first, names_of(y).back().first);
    curve.points.emplace_back(parse_quantity(point.substr(0, colon), x),
                              parse_quantity(point.substr(colon + 1), y));
    if (const std::size_t n = curve.points.size();
        n > 1 && curve.points[n - 1].first <= curve.points[n - 2].first)
      throw ConfigError("'{}' does not come behind the point before it", trimmed(point));
  }
  if (curve.points.empty()) throw ConfigError("a curve without points");
  return curve;
}

}  // namespace graphlora::plan
