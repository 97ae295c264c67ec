#include "train/pair_exchange.hpp"

#include <algorithm>
#include <bit>
#include <numeric>

#include "core/rng.hpp"

namespace graphlora {
namespace {

constexpr std::uint64_t kFree = ~std::uint64_t{0};

/// The first `rows` rows of `buffer`, which grows as needed.
at::Tensor room_for(at::Tensor& buffer, std::int64_t rows, const at::Tensor& like_nD) {
  if (!buffer.defined() || buffer.size(0) < rows)
    buffer = at::empty({rows + rows / 4, like_nD.size(1)}, like_nD.options());
  return buffer.slice(0, 0, rows);
}

std::vector<std::int64_t> first_of(const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> first(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), first.begin(), std::int64_t{0});
  return first;
}

}  // namespace

void PairExchange::Numbering::reset(std::size_t most, int peers) {
  keys_.assign(std::bit_ceil(2 * most + 1), kFree);
  numbers_.resize(keys_.size());
  counts_.assign(peers, 0);
}

std::pair<std::uint32_t, bool> PairExchange::Numbering::number(int peer, std::uint32_t node) {
  const std::uint64_t key = static_cast<std::uint64_t>(peer) << 32 | node;
  const std::size_t mask = keys_.size() - 1;
  std::size_t slot = splitmix64(key) & mask;
  while (keys_[slot] != kFree && keys_[slot] != key) slot = (slot + 1) & mask;
  const bool is_new = keys_[slot] == kFree;
  if (is_new) {
    keys_[slot] = key;
    numbers_[slot] = static_cast<std::uint32_t>(counts_[peer]++);
  }
  return {numbers_[slot], is_new};
}

void PairExchange::assign(std::span<const Pair> pairs) {
  places_.clear();
  foreign_.clear();
  wanted_.clear();
  sent_.clear();
  const int rank = world_->rank();
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto [user, item] = pairs[i];
    const int user_owner = map_->owner(user), item_owner = map_->owner(item);
    const bool owns_user = user_owner == rank, owns_item = item_owner == rank;
    if (!owns_user && !owns_item) continue;
    const auto place = static_cast<std::uint32_t>(places_.size());
    if (owns_user || both_) {
      places_.push_back({static_cast<std::uint32_t>(i),
                         static_cast<std::uint32_t>(owns_user ? map_->local(user) : user),
                         static_cast<std::uint32_t>(owns_item ? map_->local(item) : item)});
    }
    if (owns_user && !owns_item) {
      foreign_.push_back({place, 0, item_owner, true});
      if (both_) wanted_.emplace_back(item_owner, user);
    } else if (owns_item && !owns_user) {
      wanted_.emplace_back(user_owner, item);
      if (both_) foreign_.push_back({place, 0, user_owner, false});
    }
  }
  // Sender and receiver walk the pairs that concern both in the same order, so that the order of
  // first occurrence is the same on both sides.
  receiving_.reset(foreign_.size(), world_->size());
  for (Foreign& end : foreign_) {
    const Place& place = places_[end.place];
    end.number = receiving_.number(end.owner, end.is_item ? place.item : place.user).first;
  }
  const std::vector<std::int64_t> first_received = first_of(receiving_.counts());
  for (const Foreign& end : foreign_) {
    Place& place = places_[end.place];
    (end.is_item ? place.item : place.user) =
        static_cast<std::uint32_t>(owned_ + first_received[end.owner] + end.number);
  }
  sending_.reset(wanted_.size(), world_->size());
  for (const auto& [peer, node] : wanted_) {
    if (sending_.number(peer, node).second)
      sent_.push_back({peer, static_cast<std::uint32_t>(map_->local(node))});
  }
  send_rows_.resize(sent_.size());
  std::vector<std::int64_t> next = first_of(sending_.counts());
  for (const Sent& sent : sent_) send_rows_[next[sent.peer]++] = sent.row;
}

Handle PairExchange::start(const at::Tensor& table_nD, Buffers& buffers, Traffic traffic) const {
  const auto& receive_counts = receiving_.counts();
  const at::Tensor received_fD = room_for(
      buffers.received,
      std::accumulate(receive_counts.begin(), receive_counts.end(), std::int64_t{0}), table_nD);
  if (world_->size() == 1) return {};
  const auto rows = static_cast<std::int64_t>(send_rows_.size());
  at::Tensor send_sD = room_for(buffers.send, rows, table_nD);
  const at::Tensor index =
      at::from_blob(const_cast<std::int64_t*>(send_rows_.data()),  // NOLINT: only read
                    {rows}, at::kLong);
  if (rows > 0) at::index_select_out(send_sD, table_nD, 0, index);
  return world_->all_to_all_rows(send_sD, sending_.counts(), received_fD, receive_counts, traffic);
}

}  // namespace graphlora
