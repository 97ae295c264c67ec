#include "train/node_rows.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/tensor_view.hpp"

namespace graphlora {

NodeRows::NodeRows(Communicator& world, const at::Tensor& owned) : world_(world) {
  std::tie(ids_n_, order_n_) = owned.sort();
}

at::Tensor NodeRows::fetch(const at::Tensor& rows_nC, std::span<const NodeRange> ranges) const {
  const auto ids = values_of<std::int64_t>(ids_n_);
  const auto first_at_least = [&](std::int64_t node) {
    return std::lower_bound(ids.begin(), ids.end(), node) - ids.begin();
  };
  std::vector<std::int64_t> send_counts;
  std::vector<at::Tensor> sent_ids, sent_rows;
  for (const NodeRange& range : ranges) {
    const std::int64_t begin = first_at_least(range.begin);
    send_counts.push_back(std::max<std::int64_t>(0, first_at_least(range.end) - begin));
    sent_ids.push_back(ids_n_.narrow(0, begin, send_counts.back()));
    sent_rows.push_back(order_n_.narrow(0, begin, send_counts.back()));
  }
  const std::vector<std::int64_t> receive_counts =
      world_.exchange_counts(send_counts, Traffic::embedding);
  const auto exchange = [&](const at::Tensor& send) {
    auto shape = send.sizes().vec();
    shape[0] = std::accumulate(receive_counts.begin(), receive_counts.end(), std::int64_t{0});
    at::Tensor receive = at::empty(shape, send.options());
    world_.all_to_all_rows(send, send_counts, receive, receive_counts, Traffic::embedding).wait();
    return receive;
  };
  const NodeRange& mine = ranges[world_.rank()];
  const at::Tensor place = exchange(at::cat(sent_ids)) - mine.begin;
  const at::Tensor received =
      exchange(rows_nC.detach().index_select(0, at::cat(sent_rows).to(rows_nC.device())).cpu());

  std::vector<bool> seen(mine.size(), false);
  for (const std::int64_t at : values_of<std::int64_t>(place)) {
    if (at < 0 || at >= mine.size() || seen[at]) return {};
    seen[at] = true;
  }
  if (place.numel() != mine.size()) return {};
  at::Tensor result = at::empty_like(received);
  return result.index_copy_(0, place, received);
}

}  // namespace graphlora
