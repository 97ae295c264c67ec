#include "train/benchmark/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace graphlora::benchmark {
namespace {

constexpr double kWidth = 680, kHeight = 380;
constexpr double kLeft = 76, kRight = 190, kTop = 36, kBottom = 52;
constexpr double kLegendStep = 18;
constexpr int kTicks = 5;

// Distinguishable without seeing red and green apart (Okabe and Ito).
const std::array<const char*, 8> kColors{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                         "#e69f00", "#56b4e9", "#000000", "#999999"};

const char* color(std::size_t i) { return kColors[i % kColors.size()]; }

/// A range of numbers and where on the page it lies.
class Scale {
 public:
  Scale(bool logarithmic, double page_low, double page_high)
      : logarithmic_(logarithmic), page_low_(page_low), page_high_(page_high) {}

  bool shows(double value) const { return std::isfinite(value) && (!logarithmic_ || value > 0); }
  void include(double value) {
    if (!shows(value)) return;
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }
  /// Ends the range on round numbers, and chooses the ticks.
  void settle() {
    if (low_ > high_) low_ = logarithmic_ ? 1 : 0, high_ = 1;
    if (logarithmic_) {
      low_ /= 1.2;
      high_ *= 1.2;
      for (double power = std::floor(std::log10(low_)); power <= std::log10(high_); ++power)
        for (const double first : {1.0, 2.0, 5.0})
          if (const double tick = first * std::pow(10, power); tick >= low_ && tick <= high_)
            ticks_.push_back(tick);
      const std::size_t stride = 1 + ticks_.size() / (2 * kTicks);
      std::vector<double> fewer;
      for (std::size_t i = 0; i < ticks_.size(); i += stride) fewer.push_back(ticks_[i]);
      ticks_ = fewer;
      return;
    }
    if (high_ == low_) high_ = low_ + (low_ == 0 ? 1 : std::abs(low_));
    const double rough = (high_ - low_) / kTicks,
                 power = std::pow(10, std::floor(std::log10(rough)));
    double step = 10 * power;
    for (const double nice : {5.0, 2.0, 1.0})
      if (nice * power >= rough) step = nice * power;
    low_ = std::floor(low_ / step) * step;
    high_ = std::ceil(high_ / step) * step;
    for (int i = 0; low_ + i * step <= high_ + 0.5 * step; ++i) ticks_.push_back(low_ + i * step);
  }
  double page(double value) const {
    const auto place = [&](double v) { return logarithmic_ ? std::log(v) : v; };
    return page_low_ +
           (place(value) - place(low_)) / (place(high_) - place(low_)) * (page_high_ - page_low_);
  }
  const std::vector<double>& ticks() const { return ticks_; }
  double low() const { return low_; }

 private:
  bool logarithmic_;
  double page_low_, page_high_;
  double low_ = std::numeric_limits<double>::infinity(), high_ = -low_;
  std::vector<double> ticks_;
};

std::string text_at(double x, double y, const char* anchor, const std::string& text,
                    const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y,
                     anchor, more, escaped(text));
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1,
                     x2, y2, style);
}

std::string opening(const Axes& axes) {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" "
             "height=\"{}\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\">\n"
             "<title>{}</title>\n",
             kWidth, kHeight, kWidth, kHeight, escaped(axes.title)) +
         text_at(kLeft, 20, "start", axes.title, " font-weight=\"bold\"") +
         text_at(0.5 * (kLeft + kWidth - kRight), kHeight - 12, "middle", axes.x) +
         fmt::format(
             "<text transform=\"translate(16 {:.1f}) rotate(-90)\" "
             "text-anchor=\"middle\">{}</text>\n",
             0.5 * (kTop + kHeight - kBottom), escaped(axes.y));
}

std::string y_axis(const Scale& y) {
  std::string svg;
  for (const double tick : y.ticks()) {
    const double at = y.page(tick);
    svg += line(kLeft, at, kWidth - kRight, at, "stroke=\"#dddddd\"");
    svg += text_at(kLeft - 6, at + 4, "end", fmt::format("{:.4g}", tick));
  }
  return svg + line(kLeft, kTop, kLeft, kHeight - kBottom, "stroke=\"#333333\"") +
         line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "stroke=\"#333333\"");
}

std::string legend(std::size_t i, const char* ink, const std::string& name) {
  const double y = kTop + 8 + kLegendStep * static_cast<double>(i);
  return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"10\" height=\"10\" fill=\"{}\"/>\n",
                     kWidth - kRight + 12, y - 9, ink) +
         text_at(kWidth - kRight + 28, y, "start", name);
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

std::string line_plot(const Axes& axes, const std::vector<Curve>& curves) {
  Scale x(axes.log_x, kLeft, kWidth - kRight), y(axes.log_y, kHeight - kBottom, kTop);
  if (!axes.log_y && axes.from_zero) y.include(0);
  for (const Curve& curve : curves) {
    for (const Point& point : curve.points) {
      if (!x.shows(point.x) || !y.shows(point.y)) continue;
      x.include(point.x);
      y.include(point.y);
      if (point.interval) y.include(point.interval->first), y.include(point.interval->second);
    }
  }
  x.settle();
  y.settle();
  std::string svg = opening(axes) + y_axis(y);
  for (const double tick : x.ticks()) {
    svg += line(x.page(tick), kHeight - kBottom, x.page(tick), kHeight - kBottom + 4,
                "stroke=\"#333333\"");
    svg += text_at(x.page(tick), kHeight - kBottom + 18, "middle", fmt::format("{:.4g}", tick));
  }
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const Curve& curve = curves[i];
    const char* ink = color(curve.color < 0 ? i : static_cast<std::size_t>(curve.color));
    svg += legend(i, ink, curve.name);
    std::string path, marks;
    for (const Point& point : curve.points) {
      if (!x.shows(point.x) || !y.shows(point.y)) continue;
      const double px = x.page(point.x), py = y.page(point.y);
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", px, py);
      if (!curve.marked) continue;
      if (point.interval && y.shows(point.interval->first)) {
        marks +=
            line(px, y.page(point.interval->first), px, y.page(point.interval->second),
                 fmt::format("class=\"interval\" stroke=\"{}\" stroke-width=\"2\"", ink).c_str());
      }
      marks += fmt::format(
          "<circle class=\"point\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\">"
          "<title>{}: {:.6g}, {:.6g}</title></circle>\n",
          px, py, ink, escaped(curve.name), point.x, point.y);
    }
    if (curve.joined && !path.empty()) {
      svg += fmt::format(
          "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{}/>\n", path,
          ink, curve.dashed ? " stroke-dasharray=\"6 4\"" : "");
    }
    svg += marks;
  }
  return svg + "</svg>\n";
}

std::string bar_plot(const Axes& axes, const std::vector<std::string>& part_names,
                     const std::vector<Bar>& bars) {
  Scale y(false, kHeight - kBottom, kTop);
  y.include(0);
  for (const Bar& bar : bars) {
    double sum = 0;
    for (const double part : bar.parts) sum += std::max(0.0, part);
    y.include(sum);
  }
  y.settle();
  std::string svg = opening(axes) + y_axis(y);
  for (std::size_t k = 0; k < part_names.size(); ++k) svg += legend(k, color(k), part_names[k]);
  const double step =
      (kWidth - kRight - kLeft) / static_cast<double>(std::max<std::size_t>(1, bars.size()));
  const double width = std::min(60.0, 0.7 * step);
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double middle = kLeft + step * (static_cast<double>(i) + 0.5);
    // Long names side by side would run into each other.
    svg += text_at(middle, kHeight - kBottom + (i % 2 == 0 ? 13 : 26), "middle", bars[i].name);
    double from = 0;
    for (std::size_t k = 0; k < bars[i].parts.size(); ++k) {
      const double part = std::max(0.0, bars[i].parts[k]);
      svg += fmt::format(
          "<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill=\"{}\"><title>{}, {}: {:.6g}</title></rect>\n",
          middle - 0.5 * width, y.page(from + part), width, y.page(from) - y.page(from + part),
          color(k), escaped(bars[i].name), escaped(part_names[k]), part);
      from += part;
    }
  }
  return svg + "</svg>\n";
}

}  // namespace graphlora::benchmark
