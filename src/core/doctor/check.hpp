// What `graphlora doctor` finds out: one line a check.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace graphlora::doctor {

/// From the best to the worst. skip: there is nothing of the kind here.
enum class Verdict : std::uint8_t { skip, pass, warn, fail };

const char* to_string(Verdict verdict);

/// `group` and `name` are fixed words, by which programs know a check. `seen`: what was found, in
/// one line. `remedy`: what to do about it; never empty for warn and fail.
struct Check {
  std::string group, name;
  Verdict verdict = Verdict::pass;
  std::string seen, remedy = {};
};

void to_json(nlohmann::json& json, const Check& check);
/// Throws nlohmann's exceptions where `json` is not what to_json wrote.
void from_json(const nlohmann::json& json, Check& check);

/// The worst verdict; skip if there is no check.
Verdict worst(const std::vector<Check>& checks);

/// Bytes in words: "64.0 MiB", "unlimited" for the largest number.
std::string size_text(std::uint64_t bytes);

}  // namespace graphlora::doctor
