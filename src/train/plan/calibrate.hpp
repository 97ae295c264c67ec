// Rates of a cluster as measured there, in place of its file's.
#pragma once
#include <vector>

#include "train/benchmark/summary.hpp"
#include "train/plan/predict.hpp"

namespace graphlora::plan {

/// `cluster` with what the runs measured: rates of products and the decoder, of sums over edges, of
/// passes over E and of loading; α and β of the links; what the program takes of memory and of a
/// step beside all that is predicted. Of several runs those nearest to (hidden size, ranks) count,
/// with the seconds of all that measured the same.
/// `used` tells which, in a sentence. Throws DataError for runs without micro or macro
/// measurements.
Cluster calibrated(const Cluster& cluster, const std::vector<benchmark::Run>& runs,
                   std::int64_t hidden, std::int64_t ranks, std::string& used);

}  // namespace graphlora::plan
