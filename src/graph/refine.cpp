#include "graph/refine.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>
#include <tuple>

namespace graphlora {
namespace {

constexpr double kWorkLimit = 1.01;  // of the mean
constexpr double kNodeLimit = 1.05;
constexpr int kPasses = 6;             // of moves that save halo rows, at most
constexpr double kWorthAPass = 0.002;  // of the halo rows that the pass before saved

// How many neighbors of a node each part owns. A node with fewer neighbors than parts has a slot
// for each neighbor, to be searched; the others one for each part.
class NeighborParts {
 public:
  NeighborParts(std::int64_t nodes, std::int64_t parts) : parts_(parts), offsets_(nodes + 1, 0) {}
  void set_degree(std::int64_t node, std::int64_t degree) {
    offsets_[node + 1] = std::min(degree, parts_);
  }
  void allocate() {
    std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
    part_.assign(offsets_.back(), 0);
    count_.assign(offsets_.back(), 0);
  }
  std::int32_t count(std::int64_t node, std::int32_t part) const {
    const std::int64_t slot = find(node, part);
    return slot < 0 ? 0 : count_[slot];
  }
  void add(std::int64_t node, std::int32_t part) {
    std::int64_t slot = find(node, part);
    if (slot < 0) {  // there is a free one: a slot for each neighbor
      for (slot = offsets_[node]; count_[slot] != 0; ++slot) {
      }
      part_[slot] = static_cast<std::uint16_t>(part);
    }
    ++count_[slot];
  }
  void remove(std::int64_t node, std::int32_t part) { --count_[find(node, part)]; }
  /// Calls visit(part, count) for every part that owns a neighbor.
  template <class Visit>
  void each(std::int64_t node, const Visit& visit) const {
    const std::int64_t begin = offsets_[node], slots = offsets_[node + 1] - begin;
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      const std::int32_t count = count_[begin + slot];
      if (count == 0) continue;
      visit(slots == parts_ ? static_cast<std::int32_t>(slot) : part_[begin + slot], count);
    }
  }

 private:
  std::int64_t find(std::int64_t node, std::int32_t part) const {
    const std::int64_t begin = offsets_[node], end = offsets_[node + 1];
    if (end - begin == parts_) return begin + part;
    for (std::int64_t slot = begin; slot < end; ++slot) {
      if (count_[slot] != 0 && part_[slot] == part) return slot;
    }
    return -1;
  }

  std::int64_t parts_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::uint16_t> part_;
  std::vector<std::int32_t> count_;
};

class Refinement {
 public:
  Refinement(const BipartiteGraph& graph, std::int64_t parts, Division& division)
      : graph_(graph),
        parts_(parts),
        owner_(division.owner),
        work_(work_of_nodes(graph, division.hubs)),
        is_hub_(graph.nodes, false),
        near_(graph.nodes, parts),
        load_(parts, 0),
        nodes_(parts, 0),
        shared_(parts, 0) {
    for (const std::int64_t hub : division.hubs) is_hub_[hub] = true;
    for (std::int64_t node = 0; node < graph.nodes; ++node) {
      load_[owner_[node]] += work_[node];
      ++nodes_[owner_[node]];
      std::int64_t degree = 0;
      each_neighbor(node, [&](std::int32_t) { ++degree; });
      near_.set_degree(node, degree);
    }
    near_.allocate();
    for (std::int64_t node = 0; node < graph.nodes; ++node) {
      each_neighbor(node, [&](std::int32_t neighbor) { near_.add(node, owner_[neighbor]); });
    }
    const auto limit = [&](double over, std::int64_t sum) {
      return static_cast<std::int64_t>(
          std::ceil(over * static_cast<double>(sum) / static_cast<double>(parts)));
    };
    load_limit_ = limit(kWorkLimit, static_cast<std::int64_t>(graph.col.size()));
    node_limit_ = node_room_ = limit(kNodeLimit, graph.nodes);
  }

  // Even work comes first; only where that is out of reach otherwise does it cost even numbers of
  // nodes.
  void balance() {
    const auto load_excess = [&](std::int32_t part) { return load_[part] - load_limit_; };
    const auto node_excess = [&](std::int32_t part) { return nodes_[part] - node_limit_; };
    relieve(load_excess, work_);
    node_room_ = graph_.nodes;
    relieve(load_excess, work_);
    node_room_ = node_limit_;
    relieve(node_excess, std::vector<std::int32_t>(graph_.nodes, 1));
  }

  void improve() {
    std::int64_t halo = halo_rows();
    for (int pass = 0; pass < kPasses && halo > 0; ++pass) {
      std::int64_t saved = 0;
      for (std::int64_t node = 0; node < graph_.nodes; ++node) {
        if (is_hub_[node]) continue;
        bool boundary = false;
        near_.each(node,
                   [&](std::int32_t part, std::int32_t) { boundary |= part != owner_[node]; });
        if (!boundary) continue;
        const Move move = best_move(node, -1);
        if (move.part < 0 || move.rows >= 0) continue;
        saved -= move.rows;
        apply(node, move.part);
      }
      halo -= saved;
      if (static_cast<double>(saved) < kWorthAPass * static_cast<double>(halo)) break;
    }
  }

 private:
  struct Move {
    std::int32_t part = -1;  // where to; -1: nowhere
    std::int64_t rows = 0;   // change of the number of halo rows
  };
  struct Candidate {
    double cost;  // halo rows per unit of what the part has too much of
    std::int32_t node;
    bool operator>(const Candidate& other) const {
      return std::tie(cost, node) > std::tie(other.cost, other.node);
    }
  };

  template <class Visit>
  void each_neighbor(std::int64_t node, const Visit& visit) const {
    if (is_hub_[node]) return;
    for (std::int64_t e = graph_.row_offsets[node]; e < graph_.row_offsets[node + 1]; ++e) {
      if (!is_hub_[graph_.col[e]]) visit(graph_.col[e]);
    }
  }
  bool fits(std::int64_t node, std::int32_t part) const {
    return load_[part] + work_[node] <= load_limit_ && nodes_[part] < node_room_;
  }

  // The part with room where the node costs least halo rows; `fallback`: a part to consider even if
  // it owns none of the neighbors nor any row that they use.
  Move best_move(std::int64_t node, std::int32_t fallback) {
    const std::int32_t home = owner_[node];
    std::int64_t degree = 0, freed = 0;  // freed: neighbors' rows that `home` needs for node alone
    touched_.clear();
    const auto shares = [&](std::int32_t part) {
      if (shared_[part]++ == 0) touched_.push_back(part);
    };
    each_neighbor(node, [&](std::int32_t neighbor) {
      ++degree;
      const std::int32_t theirs = owner_[neighbor];
      bool at_its_owner = false;
      near_.each(neighbor, [&](std::int32_t part, std::int32_t count) {
        if (part == theirs) at_its_owner = true;
        if (part != home) {
          shares(part);
        } else if (count == 1 && theirs != home) {
          ++freed;
        }
      });
      if (!at_its_owner && theirs != home) shares(theirs);
    });
    const std::int64_t left_behind = near_.count(node, home) > 0 ? 1 : 0;
    Move best;
    const auto consider = [&](std::int32_t part) {
      if (part == home || !fits(node, part)) return;
      // Every neighbor's row travels there unless it does or lives there already; of the node's own
      // row the new home needs no copy any more and the old one may.
      const std::int64_t rows =
          degree - shared_[part] - freed + left_behind - (near_.count(node, part) > 0 ? 1 : 0);
      if (best.part < 0 ||
          std::tie(rows, load_[part], part) < std::tie(best.rows, load_[best.part], best.part)) {
        best = {part, rows};
      }
    };
    for (const std::int32_t part : touched_) consider(part);
    if (fallback >= 0) consider(fallback);
    for (const std::int32_t part : touched_) shared_[part] = 0;
    return best;
  }

  void apply(std::int64_t node, std::int32_t part) {
    const std::int32_t home = owner_[node];
    each_neighbor(node, [&](std::int32_t neighbor) {
      near_.remove(neighbor, home);
      near_.add(neighbor, part);
    });
    owner_[node] = part;
    load_[home] -= work_[node];
    load_[part] += work_[node];
    --nodes_[home];
    ++nodes_[part];
  }

  std::int32_t least_loaded() const {
    std::int32_t least = -1;
    for (std::int32_t part = 0; part < parts_; ++part) {
      if (nodes_[part] >= node_room_) continue;
      if (least < 0 || load_[part] < load_[least]) least = part;
    }
    return least;
  }

  // Moves nodes out of every part until its excess is used up, those first that cost least halo
  // rows for the `relief` they bring. Costs change with every move, so the cheapest one's is
  // computed anew and put back if another has become cheaper. Parts that take nodes stay within the
  // limits.
  template <class Excess>
  void relieve(const Excess& excess, const std::vector<std::int32_t>& relief) {
    std::vector<std::vector<std::int32_t>> members(parts_);
    for (std::int64_t node = 0; node < graph_.nodes; ++node) {
      if (relief[node] == 0 || is_hub_[node] || excess(owner_[node]) <= 0) continue;
      members[owner_[node]].push_back(static_cast<std::int32_t>(node));
    }
    for (std::int32_t part = 0; part < parts_; ++part) {
      std::int32_t least = least_loaded();
      const auto cost = [&](std::int32_t node, const Move& move) {
        const auto relieved = std::min<std::int64_t>(relief[node], excess(part));
        return static_cast<double>(move.rows) / static_cast<double>(relieved);
      };
      std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
      for (const std::int32_t node : members[part]) {
        const Move move = best_move(node, least);
        if (move.part >= 0) queue.push({cost(node, move), node});
      }
      while (excess(part) > 0 && !queue.empty()) {
        const Candidate candidate = queue.top();
        queue.pop();
        const Move move = best_move(candidate.node, least);
        if (move.part < 0) continue;
        const Candidate now{cost(candidate.node, move), candidate.node};
        if (now.cost > candidate.cost && !queue.empty() && now > queue.top()) {
          queue.push(now);
          continue;
        }
        apply(candidate.node, move.part);
        least = least_loaded();
      }
    }
  }

  std::int64_t halo_rows() const {
    std::int64_t rows = 0;
    for (std::int64_t node = 0; node < graph_.nodes; ++node) {
      near_.each(node, [&](std::int32_t part, std::int32_t) { rows += part != owner_[node]; });
    }
    return rows;
  }

  const BipartiteGraph& graph_;
  std::int64_t parts_;
  std::vector<std::int32_t>& owner_;
  std::vector<std::int32_t> work_;
  std::vector<bool> is_hub_;
  NeighborParts near_;
  std::vector<std::int64_t> load_, nodes_;  // per part: work and nodes
  std::int64_t load_limit_ = 0, node_limit_ = 0;
  std::int64_t node_room_ = 0;  // a part takes no node beyond it
  // Of the node at hand: per part, the neighbors whose rows are there already or for another.
  std::vector<std::int64_t> shared_;
  std::vector<std::int32_t> touched_;  // parts with shared_ > 0
};

}  // namespace

std::vector<std::int32_t> work_of_nodes(const BipartiteGraph& graph,
                                        const std::vector<std::int64_t>& hubs) {
  std::vector<std::int32_t> work(graph.nodes);
  for (std::int64_t node = 0; node < graph.nodes; ++node) {
    work[node] = static_cast<std::int32_t>(graph.degree(node));
  }
  for (const std::int64_t hub : hubs) {
    for (std::int64_t e = graph.row_offsets[hub]; e < graph.row_offsets[hub + 1]; ++e) {
      ++work[graph.col[e]];
    }
    work[hub] = 0;
  }
  return work;
}

void refine_division(const BipartiteGraph& graph, std::int64_t parts, Division& division) {
  Refinement refinement(graph, parts, division);
  refinement.balance();
  refinement.improve();
}

}  // namespace graphlora
