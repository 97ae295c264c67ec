#include "dist/doctor/gather.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace graphlora::doctor {
namespace {

/// What ranks found under one name.
struct Finding {
  const Check* check = nullptr;
  int rank = 0, alike = 0, ranks = 0;
};

}  // namespace

std::vector<std::string> gather_texts(Communicator& world, const std::string& text) {
  std::string own = text;
  const at::Tensor bytes =
      at::from_blob(own.data(), {static_cast<std::int64_t>(own.size())}, at::kByte);
  const auto [all, counts] = world.all_gather_varying(bytes, Traffic::control);
  std::vector<std::string> texts;
  const auto* next = static_cast<const char*>(all.const_data_ptr());
  for (const std::int64_t count : counts) {
    texts.emplace_back(next, static_cast<std::size_t>(count));
    next += count;
  }
  return texts;
}

std::vector<Check> merge_ranks(const std::vector<std::vector<Check>>& checks_of_ranks,
                               std::span<const RankPlace> places) {
  std::vector<Finding> findings;
  std::map<std::pair<std::string, std::string>, std::size_t> index;
  for (int rank = 0; rank < static_cast<int>(checks_of_ranks.size()); ++rank) {
    for (const Check& check : checks_of_ranks[rank]) {
      const auto [found, is_new] = index.try_emplace({check.group, check.name}, findings.size());
      if (is_new) findings.emplace_back();
      Finding& finding = findings[found->second];
      ++finding.ranks;
      if (finding.check == nullptr || check.verdict > finding.check->verdict) {
        finding.check = &check;
        finding.rank = rank;
        finding.alike = 0;
      }
      finding.alike += check.verdict == finding.check->verdict ? 1 : 0;
    }
  }
  std::vector<Check> merged;
  for (const Finding& finding : findings) {
    Check check = *finding.check;
    if (check.verdict >= Verdict::warn && finding.alike < finding.ranks) {
      check.seen += fmt::format(" ({}", rank_text(places, finding.rank));
      if (finding.alike > 1) check.seen += fmt::format(" and {} more", finding.alike - 1);
      check.seen += ")";
    }
    merged.push_back(std::move(check));
  }
  return merged;
}

std::vector<Check> gather_checks(Communicator& world, const std::vector<Check>& own,
                                 std::span<const RankPlace> places) {
  const nlohmann::json json = own;
  const std::string text =
      json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);  // paths may be no UTF-8
  std::vector<std::vector<Check>> all;
  for (const std::string& one : gather_texts(world, text))
    all.push_back(nlohmann::json::parse(one).get<std::vector<Check>>());
  return merge_ranks(all, places);
}

std::string rank_text(std::span<const RankPlace> places, int rank) {
  return fmt::format("rank {} on {}", rank, places[rank].host);
}

std::vector<Host> hosts_of(std::span<const RankPlace> places) {
  std::vector<Host> hosts;
  std::map<std::string, std::size_t> index;
  for (int rank = 0; rank < static_cast<int>(places.size()); ++rank) {
    const auto [found, is_new] = index.try_emplace(places[rank].host, hosts.size());
    if (is_new) hosts.push_back({places[rank].host, {}});
    hosts[found->second].ranks.push_back(rank);
  }
  return hosts;
}

}  // namespace graphlora::doctor
