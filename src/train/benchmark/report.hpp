// The report of a study: one HTML page with its plots inside, readable without a network.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/benchmark/summary.hpp"

namespace graphlora::benchmark {

/// Well-formed XML as well as HTML. `plan`: what `graphlora plan --json` wrote, for predictions
/// beside the measured steps; null: none. Throws DataError for a plan that is none.
std::string report_html(const std::vector<Run>& runs, const nlohmann::json& plan);

}  // namespace graphlora::benchmark
