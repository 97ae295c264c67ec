#include "core/doctor/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>

namespace graphlora::doctor {
namespace {

constexpr std::array kVerdicts{"skip", "pass", "warn", "fail"};

}  // namespace

const char* to_string(Verdict verdict) { return kVerdicts.at(static_cast<std::size_t>(verdict)); }

void to_json(nlohmann::json& json, const Check& check) {
  json = {{"group", check.group},
          {"name", check.name},
          {"verdict", to_string(check.verdict)},
          {"seen", check.seen},
          {"remedy", check.remedy}};
}

void from_json(const nlohmann::json& json, Check& check) {
  json.at("group").get_to(check.group);
  json.at("name").get_to(check.name);
  json.at("seen").get_to(check.seen);
  json.at("remedy").get_to(check.remedy);
  const auto word = json.at("verdict").get<std::string>();
  const auto* found = std::find(kVerdicts.begin(), kVerdicts.end(), word);
  if (found == kVerdicts.end()) throw std::invalid_argument("no verdict: " + word);
  check.verdict = static_cast<Verdict>(found - kVerdicts.begin());
}

Verdict worst(const std::vector<Check>& checks) {
  Verdict worst = Verdict::skip;
  for (const Check& check : checks) worst = std::max(worst, check.verdict);
  return worst;
}

std::string size_text(std::uint64_t bytes) {
  if (bytes == std::numeric_limits<std::uint64_t>::max()) return "unlimited";
  constexpr std::array kUnits{"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  double size = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; size >= 1024 && unit + 1 < kUnits.size(); ++unit) size /= 1024;
  return fmt::format("{:.1f} {}", size, kUnits.at(unit));
}

}  // namespace graphlora::doctor
