#include "graph/gather_rows.hpp"

#include <algorithm>
#include <numeric>

#include "core/error.hpp"

namespace graphlora {
namespace {

at::Tensor exchange(Communicator& world, const at::Tensor& send,
                    const std::vector<std::int64_t>& send_counts,
                    const std::vector<std::int64_t>& receive_counts, Traffic traffic) {
  auto sizes = send.sizes().vec();
  sizes[0] = std::accumulate(receive_counts.begin(), receive_counts.end(), std::int64_t{0});
  at::Tensor received = at::empty(sizes, send.options());
  world.all_to_all_rows(send.contiguous(), send_counts, received, receive_counts, traffic).wait();
  return received;
}

}  // namespace

GatherPlan::GatherPlan(Communicator& world, const NodeMap& map, std::span<const std::int64_t> nodes)
    : world_(world) {
  const auto count = static_cast<std::int64_t>(nodes.size());
  receive_counts_.assign(world.size(), 0);
  for (const std::int64_t node : nodes) {
    TORCH_CHECK(node >= 0 && node < map.nodes(), "gather: node ", node, " of ", map.nodes());
    ++receive_counts_[map.owner(node)];
  }
  // Requests go out grouped by owner, in the order asked within an owner.
  std::vector<std::int64_t> place(world.size(), 0);
  std::exclusive_scan(receive_counts_.begin(), receive_counts_.end(), place.begin(),
                      std::int64_t{0});
  const at::Tensor rows = at::empty({count}, at::kLong), places = at::empty_like(rows),
                   inverse_places = at::empty_like(rows);
  auto* row = rows.mutable_data_ptr<std::int64_t>();
  auto* order = places.mutable_data_ptr<std::int64_t>();
  auto* inverse = inverse_places.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t p = place[map.owner(nodes[i])]++;
    row[p] = map.local(nodes[i]);
    order[i] = p;
    inverse[p] = i;
  }
  order_ = places;
  inverse_order_ = inverse_places;
  send_counts_ = world.exchange_counts(receive_counts_, Traffic::control);
  send_rows_ = exchange(world, rows, receive_counts_, send_counts_, Traffic::control);
}

at::Tensor GatherPlan::forward(const at::Tensor& picked_SC, Traffic traffic) const {
  TORCH_CHECK(picked_SC.size(0) == send_rows().size(0), "gather: ", picked_SC.size(0),
              " rows picked, ", send_rows().size(0), " asked for");
  return exchange(world_, picked_SC, send_counts_, receive_counts_, traffic)
      .index_select(0, order_.to(picked_SC.device()));
}

at::Tensor GatherPlan::adjoint(const at::Tensor& grad_AC, Traffic traffic) const {
  TORCH_CHECK(grad_AC.size(0) == order_.cpu().size(0), "gather: ", grad_AC.size(0),
              " gradients for ", order_.cpu().size(0), " rows");
  return exchange(world_, grad_AC.index_select(0, inverse_order_.to(grad_AC.device())),
                  receive_counts_, send_counts_, traffic);
}

}  // namespace graphlora
