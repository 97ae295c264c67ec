// One rank's part of the graph, and the plans that GNNs and exchanges work from.
// Shapes: n owned nodes, h halo nodes, P ranks, G cut groups.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "data/dataset.hpp"
#include "dist/communicator.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// What one propagation needs, whatever it stands for (a cut, later a frontier or hubs). Row i of
/// the local graph has the entries [row_begin, drop_begin) and [drop_end, row_end) of `col`;
/// columns index owned, then halo rows. Spans point into the shard, which must outlive the plan.
struct GraphPlan {
  std::int64_t owned = 0, halo = 0;  ///< n, and the halo rows that travel under this plan
  // Per owned row, 4 pointers into col: [4*i] begin, [4*i+1] end of the first run, [4*i+2] begin,
  // [4*i+3] end of the second.
  std::vector<std::int64_t> runs;
  std::span<const std::int32_t> col;
  at::Tensor degree_n;                       ///< i32, degrees of owned rows in the cut graph
  at::Tensor inverse_sqrt_degree_n;          ///< f64, D^-1/2, 0 where the degree is 0
  std::vector<std::int64_t> send_counts;     ///< rows to each rank
  at::Tensor send_rows;                      ///< i64, owned rows, concatenated by receiving rank
  std::vector<std::int64_t> receive_counts;  ///< halo rows from each rank
  at::Tensor
      receive_rows;  ///< i64, halo slots (0…h-1 of the full halo) they go to, by sending rank
  // Transposed entries of halo columns: rows that use halo slot j are t_row[t_offsets[j] …
  // t_offsets[j+1]).
  std::vector<std::int64_t> t_offsets;
  std::vector<std::int32_t> t_row;
  std::int64_t entries = 0;  ///< entries in force
};

/// A part as stored in part-XXXXX.safetensors. Local order: interior | boundary | halo grouped by
/// owner, within an owner sorted by (first_group, id).
class Shard {
 public:
  /// Reads and checks part `rank` of DIRECTORY. Throws DataError (truncated, indices out of range,
  /// other dataset).
  Shard(const std::filesystem::path& directory, int rank, const Dataset& dataset);

  std::int64_t owned_count() const { return owned_.size(0); }
  std::int64_t halo_count() const { return halo_.size(0); }
  const at::Tensor& owned() const { return owned_; }  ///< i64 node ids in local order
  const at::Tensor& halo() const { return halo_; }    ///< i64 node ids
  const CutRule& cut() const { return cut_; }
  int parts() const { return parts_; }
  std::int64_t interior_count() const { return interior_; }

  /// Plan under a view; made once per view and kept.
  std::shared_ptr<const GraphPlan> plan(const CutView& view) const;

 private:
  CutRule cut_;
  int parts_ = 1;
  std::int64_t interior_ = 0;
  at::Tensor owned_, halo_, halo_offsets_, row_offsets_, col_, halo_first_group_, send_offsets_,
      send_rows_, send_first_group_;
  mutable std::vector<std::pair<CutView, std::shared_ptr<const GraphPlan>>> plans_;
};

/// Who owns which node, known everywhere: owner and local row of every node id. 8 bytes a node.
class NodeMap {
 public:
  /// Collective over `world`: every rank gives its owned ids. Throws DataError unless each of
  /// `nodes` is owned once.
  NodeMap(Communicator& world, const at::Tensor& owned, std::int64_t nodes);
  std::int64_t nodes() const { return static_cast<std::int64_t>(owner_.size()); }
  int owner(std::int64_t node) const { return owner_[node]; }
  std::int32_t local(std::int64_t node) const { return local_[node]; }

 private:
  std::vector<std::int32_t> owner_, local_;
};

}  // namespace graphlora
