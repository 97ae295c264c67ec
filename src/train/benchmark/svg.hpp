// Plots as SVG text: lines over numbers, and stacked bars. Well-formed XML, with nothing outside.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace graphlora::benchmark {

/// Text with &, <, > and quotes escaped, and without control characters; for HTML and SVG.
std::string escaped(const std::string& text);

struct Point {
  double x = 0, y = 0;
  std::optional<std::pair<double, double>> interval = {};  ///< of y, drawn as a bar
};

/// Points, each a <circle class="point"> with its numbers as a tooltip, and a line through them.
struct Curve {
  std::string name;
  std::vector<Point> points = {};
  bool marked = true;  ///< whether points are drawn
  bool joined = true;  ///< whether there is a line
  bool dashed = false;
  int color = -1;  ///< that of the curve with this number; -1: its own
};

struct Axes {
  std::string title, x, y;
  bool log_x = false, log_y = false;
  bool from_zero = true;  ///< of y, where it is no logarithm
};

/// Points that can't be drawn (not finite; not positive on a logarithmic axis) are left out.
std::string line_plot(const Axes& axes, const std::vector<Curve>& curves);

/// One bar for each name, of parts (the same number in each) that are stacked: <rect class="bar">.
struct Bar {
  std::string name;
  std::vector<double> parts = {};
};
std::string bar_plot(const Axes& axes, const std::vector<std::string>& part_names,
                     const std::vector<Bar>& bars);

}  // namespace graphlora::benchmark
