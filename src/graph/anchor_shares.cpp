#include "graph/anchor_shares.hpp"

#include <fmt/format.h>

namespace graphlora {
namespace {

/// Adds to `share` how many of the rows have nodes with edges; `edges` holds a count per node.
void count(const Dataset& dataset, const std::vector<std::int64_t>& rows,
           const std::vector<std::int32_t>& edges, AnchorShare& share) {
  for (const std::int64_t row : rows) {
    ++share.rows;
    share.users += edges[dataset.user_node(row)] > 0;
    share.items += edges[dataset.item_node(row)] > 0;
  }
}

bool far_apart(double a, double b) { return a > 2 * b || b > 2 * a; }

}  // namespace

AnchorShare& AnchorShare::operator+=(const AnchorShare& other) {
  rows += other.rows;
  users += other.users;
  items += other.items;
  return *this;
}

AnchorShare anchor_share(const Dataset& dataset, Split split) {
  std::vector<std::int32_t> edges(dataset.nodes(), 0);
  for (const std::int64_t row : dataset.rows_of(Split::train)) {
    edges[dataset.user_node(row)] += dataset.label()[row];
    edges[dataset.item_node(row)] += dataset.label()[row];
  }
  AnchorShare share;
  count(dataset, dataset.rows_of(split), edges, share);
  return share;
}

std::vector<AnchorShare> training_anchor_shares(const Dataset& dataset, const CutRule& cut) {
  std::vector<std::vector<std::int64_t>> rows(cut.groups());
  std::vector<std::int32_t> edges(dataset.nodes(), 0);
  const auto add = [&](const std::vector<std::int64_t>& group, std::int32_t sign) {
    for (const std::int64_t row : group) {
      edges[dataset.user_node(row)] += sign * dataset.label()[row];
      edges[dataset.item_node(row)] += sign * dataset.label()[row];
    }
  };
  for (const std::int64_t row : dataset.rows_of(Split::train))
    rows[cut.group(dataset.user()[row], dataset.item()[row], dataset.time()[row])].push_back(row);
  for (const auto& group : rows) add(group, 1);

  std::vector<AnchorShare> shares(cut.groups());
  CutView dropped;  // what is left out of `edges` at the moment
  for (int g = 0; g < cut.groups(); ++g) {
    const CutView view = cut.training_view(g);
    for (int d = dropped.drop_begin; d < dropped.drop_end; ++d)
      if (d < view.drop_begin || d >= view.drop_end) add(rows[d], 1);
    for (int d = view.drop_begin; d < view.drop_end; ++d)
      if (d < dropped.drop_begin || d >= dropped.drop_end) add(rows[d], -1);
    dropped = view;
    count(dataset, rows[g], edges, shares[g]);
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
