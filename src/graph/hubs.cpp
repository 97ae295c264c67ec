#include "graph/hubs.hpp"

#include <algorithm>
#include <numeric>

namespace graphlora {

std::vector<std::int64_t> items_by_degree(const BipartiteGraph& graph, std::int64_t k) {
  std::vector<std::int64_t> items(graph.nodes - graph.users);
  std::iota(items.begin(), items.end(), graph.users);
  std::partial_sort(items.begin(), items.begin() + k, items.end(),
                    [&](std::int64_t a, std::int64_t b) {
                      return std::pair(-graph.degree(a), a) < std::pair(-graph.degree(b), b);
                    });
  items.resize(k);
  return items;
}

std::int64_t hub_exchange_rows(std::int64_t hubs, std::int64_t parts) {
  return parts == 1 ? 0 : 2 * hubs * parts;
}

std::vector<std::int64_t> halo_rows_by_hubs(const BipartiteGraph& graph,
                                            const std::vector<std::int32_t>& owner,
                                            std::int64_t parts,
                                            const std::vector<std::int64_t>& items) {
  std::vector<std::int32_t> rank(graph.nodes - graph.users);  // place among `items`
  for (std::size_t place = 0; place < items.size(); ++place) {
    rank[items[place] - graph.users] = static_cast<std::int32_t>(place);
  }
  // rows[k]: the rows that travel as long as item k is no hub, and not on account of a later one.
  std::vector<std::int64_t> rows(items.size() + 1, 0);
  std::vector<std::int32_t> last(parts, -1);  // the foreign parts met: a user's last item there
  std::vector<std::int32_t> met;
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    for (std::int64_t e = graph.row_offsets[node]; e < graph.row_offsets[node + 1]; ++e) {
      const std::int32_t neighbor = graph.col[e], part = owner[neighbor];
      if (part == owner[node]) continue;
      if (last[part] < 0) met.push_back(part);
      const std::int32_t until =
          node < graph.users ? rank[neighbor - graph.users] : rank[node - graph.users];
      last[part] = std::max(last[part], until);
    }
    for (const std::int32_t part : met) ++rows[last[part]];
    for (const std::int32_t part : met) last[part] = -1;
    met.clear();
  }
  for (std::size_t k = items.size(); k > 0; --k) rows[k - 1] += rows[k];
  return rows;
}

std::vector<std::int64_t> hub_candidates(std::int64_t items) {
  std::vector<std::int64_t> candidates{0};
  for (std::int64_t k = 16; k <= std::min<std::int64_t>(32768, items / 2); k *= 2) {
    candidates.push_back(k);
  }
  return candidates;
}

}  // namespace graphlora
