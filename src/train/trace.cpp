#include "train/trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "dist/doctor/gather.hpp"

namespace graphlora {

Phases::Phases(std::vector<std::string> names) {
  for (std::string& name : names) seconds_.emplace_back(std::move(name), 0.0);
}

void Phases::record() {
  records_ = true;
  zero_ = Clock::now();
}

void Phases::add(const char* name, Clock::time_point begin, Clock::time_point end) {
  auto found = std::find_if(seconds_.begin(), seconds_.end(),
                            [&](const auto& phase) { return phase.first == name; });
  if (found == seconds_.end()) found = seconds_.insert(seconds_.end(), {name, 0.0});
  found->second += std::chrono::duration<double>(end - begin).count();
  if (!records_) return;
  const auto since = [&](Clock::time_point time) {
    return std::chrono::duration<double, std::micro>(time - zero_).count();
  };
  spans_.push_back(
      {static_cast<std::size_t>(found - seconds_.begin()), step_, since(begin), since(end)});
}

std::string Phases::trace(Communicator& world) const {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  events.push_back({{"name", "process_name"},
                    {"ph", "M"},
                    {"pid", world.rank()},
                    {"tid", 0},
                    {"args", {{"name", fmt::format("rank {}", world.rank())}}}});
  for (const Span& span : spans_) {
    events.push_back({{"name", seconds_[span.phase].first},
                      {"ph", "X"},
                      {"pid", world.rank()},
                      {"tid", 0},
                      {"ts", span.begin},
                      {"dur", span.end - span.begin},
                      {"args", {{"step", span.step}}}});
  }
  const std::string own = events.dump();
  // Without the brackets, so that the ranks' lists make one.
  const auto all = doctor::gather_texts(world, own.substr(1, own.size() - 2));
  if (world.rank() != 0) return {};
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n",
                     fmt::join(all, ",\n"));
}

}  // namespace graphlora
