#include "train/pair_exchange.hpp"

#include <algorithm>
#include <numeric>

namespace graphlora {
namespace {

using Request = std::pair<int, std::int64_t>;  // peer, node

void sort_unique(std::vector<Request>& requests) {
  std::sort(requests.begin(), requests.end());
  requests.erase(std::unique(requests.begin(), requests.end()), requests.end());
}

std::vector<std::int64_t> count_by_peer(const std::vector<Request>& requests, int ranks) {
  std::vector<std::int64_t> counts(ranks, 0);
  for (const auto& [peer, node] : requests) ++counts[peer];
  return counts;
}

}  // namespace

PairExchange::PairExchange(Communicator& world, const NodeMap& map, std::int64_t owned,
                           std::span<const Pair> pairs, bool both)
    : world_(world) {
  const int rank = world.rank();
  // Both sides of a message list its rows by node id.
  std::vector<Request> send, receive;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto [user, item] = pairs[i];
    const int user_owner = map.owner(user), item_owner = map.owner(item);
    const bool owns_user = user_owner == rank, owns_item = item_owner == rank;
    if (owns_user || (both && owns_item)) {
      places_.push_back({static_cast<std::int64_t>(i), user, item, owns_user, owns_item});
    }
    if (owns_user && !owns_item) {
      receive.emplace_back(item_owner, item);
      if (both) send.emplace_back(item_owner, user);
    } else if (owns_item && !owns_user) {
      send.emplace_back(user_owner, item);
      if (both) receive.emplace_back(user_owner, user);
    }
  }
  sort_unique(send);
  sort_unique(receive);
  send_counts_ = count_by_peer(send, world.size());
  receive_counts_ = count_by_peer(receive, world.size());
  send_rows_ = at::empty({static_cast<std::int64_t>(send.size())}, at::kLong);
  auto* rows = send_rows_.mutable_data_ptr<std::int64_t>();
  for (const auto& [peer, node] : send) *rows++ = map.local(node);

  const auto row_of = [&](std::int64_t node, bool own) -> std::int64_t {
    if (own) return map.local(node);
    const Request request{map.owner(node), node};
    return owned + (std::lower_bound(receive.begin(), receive.end(), request) - receive.begin());
  };
  for (Place& place : places_) {
    place.user = row_of(place.user, place.owns_user);
    place.item = row_of(place.item, place.owns_item);
  }
}

at::Tensor PairExchange::fetch(const at::Tensor& table_nD, Traffic traffic) const {
  const std::int64_t rows =
      std::accumulate(receive_counts_.begin(), receive_counts_.end(), std::int64_t{0});
  at::Tensor received = at::empty({rows, table_nD.size(1)}, table_nD.options());
  if (world_.size() > 1) {
    world_
        .all_to_all_rows(table_nD.index_select(0, send_rows_), send_counts_, received,
                         receive_counts_, traffic)
        .wait();
  }
  return received;
}

}  // namespace graphlora
