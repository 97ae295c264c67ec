// Checks that every rank makes for itself, brought together.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "core/doctor/check.hpp"
#include "dist/communicator.hpp"
#include "dist/rank_map.hpp"

namespace graphlora::doctor {

/// `text` of every rank, in rank order. Collective.
std::vector<std::string> gather_texts(Communicator& world, const std::string& text);

/// One check for each name that a rank has, in the order in which they first appear: that of the
/// lowest rank with the worst verdict; `seen` names it and the number of others where not all are
/// that bad.
std::vector<Check> merge_ranks(const std::vector<std::vector<Check>>& checks_of_ranks,
                               std::span<const RankPlace> places);

/// merge_ranks of what every rank gives, which may be nothing. Collective.
std::vector<Check> gather_checks(Communicator& world, const std::vector<Check>& own,
                                 std::span<const RankPlace> places);

/// "rank 2 on n1".
std::string rank_text(std::span<const RankPlace> places, int rank);

/// Hosts in the order of their first ranks.
struct Host {
  std::string name;
  std::vector<int> ranks;
};
std::vector<Host> hosts_of(std::span<const RankPlace> places);

}  // namespace graphlora::doctor
