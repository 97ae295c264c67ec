#include "graph/anchor_shares.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.hpp"

namespace graphlora {
namespace {

/// Per node the least and the greatest group of its edges: what tells whether it has any under a
/// view, which leaves out one range of groups.
class EdgeGroups {
 public:
  EdgeGroups(const Dataset& dataset, const CutRule& cut)
      : dataset_(dataset), least_(dataset.nodes(), kNone), greatest_(dataset.nodes(), 0) {
    for (std::int64_t row = 0; row < dataset.rows(); ++row) {
      if (dataset.split(row) != Split::train || dataset.label()[row] == 0) continue;
      const std::uint16_t group = group_of(dataset, cut, row);
      for (const std::int64_t node : {dataset.user_node(row), dataset.item_node(row)}) {
        least_[node] = std::min(least_[node], group);
        greatest_[node] = std::max(greatest_[node], group);
      }
    }
  }

  static std::uint16_t group_of(const Dataset& dataset, const CutRule& cut, std::int64_t row) {
    return cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row]);
  }

  void count(std::int64_t row, const CutView& view, AnchorShare& share) const {
    ++share.rows;
    share.users += has_edge(dataset_.user_node(row), view);
    share.items += has_edge(dataset_.item_node(row), view);
  }

 private:
  static constexpr std::uint16_t kNone = std::numeric_limits<std::uint16_t>::max();

  bool has_edge(std::int64_t node, const CutView& view) const {
    return least_[node] != kNone &&
           (least_[node] < view.drop_begin || greatest_[node] >= view.drop_end);
  }

  const Dataset& dataset_;
  std::vector<std::uint16_t> least_, greatest_;
};

bool far_apart(double a, double b) { return a > 2 * b || b > 2 * a; }

}  // namespace

AnchorShare& AnchorShare::operator+=(const AnchorShare& other) {
  rows += other.rows;
  users += other.users;
  items += other.items;
  return *this;
}

AnchorShares anchor_shares(const Dataset& dataset, const CutRule& cut) {
  const EdgeGroups edges(dataset, cut);
  AnchorShares shares;
  shares.train.resize(cut.groups());
  for (std::int64_t row = 0; row < dataset.rows(); ++row) {
    if (dataset.split(row) == Split::train) {
      const int group = EdgeGroups::group_of(dataset, cut, row);
      edges.count(row, cut.training_view(group), shares.train[group]);
    } else {
      edges.count(row, cut.full_view(),
                  dataset.split(row) == Split::valid ? shares.valid : shares.test);
    }
  }
  return shares;
}

AnchorShare anchor_share(const Dataset& dataset, Split split) {
  const CutRule cut({}, CutKind::none, 1);
  const EdgeGroups edges(dataset, cut);
  AnchorShare share;
  for (std::int64_t row = 0; row < dataset.rows(); ++row)
    if (dataset.split(row) == split) edges.count(row, cut.full_view(), share);
  return share;
}

std::vector<AnchorShare> training_anchor_shares(const Dataset& dataset, const CutRule& cut) {
  return anchor_shares(dataset, cut).train;
}

nlohmann::json to_json(const AnchorShares& shares) {
  const auto counts = [](const AnchorShare& share) {
    return nlohmann::json{{"rows", share.rows}, {"users", share.users}, {"items", share.items}};
  };
  nlohmann::json json{{"train", nlohmann::json::array()},
                      {"valid", counts(shares.valid)},
                      {"test", counts(shares.test)}};
  for (const AnchorShare& group : shares.train) json["train"].push_back(counts(group));
  return json;
}

AnchorShares anchor_shares_from_json(const nlohmann::json& json) {
  const auto read = [](const nlohmann::json& counts) {
    const AnchorShare share{counts.at("rows").get<std::int64_t>(),
                            counts.at("users").get<std::int64_t>(),
                            counts.at("items").get<std::int64_t>()};
    if (share.users < 0 || share.items < 0 || std::max(share.users, share.items) > share.rows)
      throw DataError("anchor_shares: {} users and {} items of {} rows", share.users, share.items,
                      share.rows);
    return share;
  };
  AnchorShares shares;
  try {
    for (const auto& group : json.at("train")) shares.train.push_back(read(group));
    shares.valid = read(json.at("valid"));
    shares.test = read(json.at("test"));
  } catch (const nlohmann::json::exception& error) {
    throw DataError("anchor_shares: {}", error.what());
  }
  return shares;
}

AnchorShare total(const std::vector<AnchorShare>& groups) {
  AnchorShare sum;
  for (const AnchorShare& group : groups) sum += group;
  return sum;
}

std::string anchor_share_warning(const AnchorShare& train, const AnchorShare& test,
                                 const CutRule& cut) {
  if (train.rows == 0 || test.rows == 0) return {};
  if (!far_apart(train.user(), test.user()) && !far_apart(train.item(), test.item())) return {};
  return fmt::format(
      "under --graph.cut {} {:.1f} % of training rows have a user and {:.1f} % an item with an "
      "edge, at test {:.1f} % and {:.1f} %: the GNN trains on something else than it is tested "
      "on; {}",
      to_string(cut.kind()), 100 * train.user(), 100 * train.item(), 100 * test.user(),
      100 * test.item(),
      far_apart(train.user(), test.user()) && test.user() < train.user()
          ? "most test users are new: consider prepare --split user-time"
          : "consider --graph.cut fold");
}

nlohmann::json to_json(const AnchorShare& share) {
  const auto value = [&](double x) {
    return share.rows > 0 ? nlohmann::json(x) : nlohmann::json();
  };
  return {{"rows", share.rows}, {"user", value(share.user())}, {"item", value(share.item())}};
}

}  // namespace graphlora
