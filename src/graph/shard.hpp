// One rank's part of the graph, and the plans that GNNs and exchanges work from.
// Shapes: n owned nodes, t targets, k hubs, h halo nodes, P ranks, G cut groups, S rows to send, R
// halo rows received.
#pragma once
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "dist/communicator.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// A tensor on the CPU and its copy on the device that asked for it last. Copies of this object
/// share that copy.
class DeviceTensor {
 public:
  DeviceTensor() = default;
  DeviceTensor(at::Tensor cpu) : cpu_(std::move(cpu)), copy_(std::make_shared<at::Tensor>()) {}
  const at::Tensor& cpu() const { return cpu_; }
  /// On this device; copied at the first call only.
  const at::Tensor& to(at::Device device) const;

 private:
  at::Tensor cpu_;
  std::shared_ptr<at::Tensor> copy_;
};

/// For each of a number of rows up to two runs of indices: what a sum over rows goes through. The
/// runs are read from pointers by group, so that a view of them costs nothing that grows with what
/// they point to.
struct RowLists {
  DeviceTensor pointers;  ///< i64: row i's stand at [i·stride, i·stride + groups]
  DeviceTensor index;     ///< i32: what the runs point into
  std::int64_t rows = 0, stride = 1;
  CutView drop;    ///< groups left out: the runs are the groups before and those after
  int groups = 1;  ///< of the pointers
  std::vector<std::int64_t> blocks;  ///< row boundaries of blocks of about equal work, 0 … rows

  /// [begin, end) of the first run, [begin, end) of the second.
  std::array<std::int64_t, 4> runs(std::int64_t row) const {
    const auto* p = pointers.cpu().const_data_ptr<std::int64_t>() + row * stride;
    return {p[0], p[drop.drop_begin], p[drop.drop_end], p[groups]};
  }
  std::int64_t size(std::int64_t row) const {
    const auto [a, b, c, d] = runs(row);
    return b - a + d - c;
  }
  /// Calls visit(index entry) for the entries of a row, in order.
  template <class Visit>
  void each(std::int64_t row, const Visit& visit) const {
    const auto* entries = index.cpu().const_data_ptr<std::int32_t>();
    const auto [a, b, c, d] = runs(row);
    for (std::int64_t e = a; e < b; ++e) visit(entries[e]);
    for (std::int64_t e = c; e < d; ++e) visit(entries[e]);
  }
};

/// Lists of rows·(groups+1) pointers by group, without the groups that `drop` leaves out.
RowLists make_row_lists(DeviceTensor pointers, DeviceTensor index, int groups, const CutView& drop);
/// Plain lists: pointers i64[rows+1], row i's entries between the i-th and the next.
RowLists make_row_lists(DeviceTensor pointers, DeviceTensor index);
/// The same from vectors.
RowLists make_row_lists(const std::vector<std::int64_t>& pointers,
                        const std::vector<std::int32_t>& index);

/// For each owned row in [begin, end) the places where it stands in `rows_S` (i64).
RowLists places_of(const at::Tensor& rows_S, std::int64_t begin, std::int64_t end);

/// What one propagation needs, whatever it stands for: a cut, a layer of a frontier, with or
/// without hubs. Sources are owned rows, then hubs (the same on every rank), then halo rows, and
/// columns index them in that order. The first `targets` owned rows are computed. Tensors are views
/// of the shard where possible and keep it alive.
struct GraphPlan {
  std::int64_t owned = 0;       ///< n sources held here
  std::int64_t targets = 0;     ///< t rows computed: all n but in a frontier
  std::int64_t interior = 0;    ///< the first targets, which have no halo column
  std::int64_t hubs = 0;        ///< k
  std::int64_t halo_slots = 0;  ///< h, places for halo rows
  std::int64_t halo = 0;        ///< R, halo rows that travel under this plan
  RowLists in_edges;            ///< t rows: columns of the entries in force; none for a hub's row
  /// n rows, the transpose: targets, then (from t on) hubs that use a source; columns from
  /// t + k on are to be left out. The lists of in_edges themselves where the block is symmetric.
  RowLists out_edges;
  RowLists halo_uses;           ///< h rows: targets that use a halo slot
  RowLists hub_in;              ///< k rows: owned sources that this rank adds to a hub
  RowLists hub_out;             ///< k rows: targets of this rank that use a hub
  RowLists homecoming;          ///< which of the S rows sent an owned row is, from home_begin on
  std::int64_t home_begin = 0;  ///< owned rows before are never sent
  std::vector<std::int64_t> hub_counts;  ///< hubs of each rank, in the order of hubs
  DeviceTensor hub_rows;                 ///< i64: owned rows of this rank's hubs
  DeviceTensor hub_targets;              ///< i64: which of them are targets (indices into hub_rows)
  DeviceTensor degree_n;                 ///< i32, degrees of owned rows in the cut graph
  std::vector<std::int64_t> send_counts;     ///< rows to each rank
  DeviceTensor send_rows;                    ///< i64[S], owned rows, concatenated by receiver
  std::vector<std::int64_t> receive_counts;  ///< halo rows from each rank
  DeviceTensor receive_rows;                 ///< i64[R], halo slots 0…h-1, by sending rank
  std::int64_t entries = 0;                  ///< entries in force that this rank adds up
  bool whole_halo() const { return halo == halo_slots; }
  std::int64_t sources() const { return owned + hubs + halo_slots; }  ///< m
};

/// A part as stored in part-XXXXX.safetensors. Local order: interior | boundary | halo grouped by
/// owner, within an owner sorted by (first_group, id). Columns: owned | hubs | halo.
class Shard {
 public:
  /// Reads and checks part `rank` of DIRECTORY. Throws DataError (truncated, indices out of range,
  /// inconsistent lists, other dataset or partition). Local.
  Shard(const std::filesystem::path& directory, int rank, const Dataset& dataset)
      : Shard(directory, rank, &dataset) {}
  /// The same by partition.json alone, whatever dataset it belongs to.
  Shard(const std::filesystem::path& directory, int rank) : Shard(directory, rank, nullptr) {}

  std::int64_t owned_count() const { return owned_.size(0); }
  std::int64_t halo_count() const { return halo_.size(0); }
  const at::Tensor& owned() const { return owned_; }                ///< i64 node ids in local order
  const at::Tensor& halo() const { return halo_; }                  ///< i64 node ids
  const at::Tensor& halo_offsets() const { return halo_offsets_; }  ///< i64[P+1], by owner
  const CutRule& cut() const { return cut_; }
  int parts() const { return parts_; }
  std::int64_t interior_count() const { return interior_; }
  std::int64_t hub_count() const { return hubs_.size(0); }
  const at::Tensor& hubs() const { return hubs_; }                ///< i64 node ids by (owner, id)
  const at::Tensor& hub_offsets() const { return hub_offsets_; }  ///< i64[P+1], by owner
  const at::Tensor& hub_degree() const { return hub_degree_; }    ///< i32[k·G], over all parts
  /// i64[k·G]: neighbours of each hub in this part, by group.
  at::Tensor own_hub_neighbours() const;
  /// Hubs, their owners and degrees as one text, to compare parts.
  std::string describe_hubs() const;
  /// i64 owned rows of this part's hubs; they are the hubs from first_own_hub() on.
  const at::Tensor& hub_rows() const { return hub_rows_.cpu(); }
  std::int64_t first_own_hub() const { return first_own_hub_; }
  const at::Tensor& send_offsets() const { return send_offsets_; }  ///< i64[P+1], by receiver
  const at::Tensor& send_rows() const { return send_rows_; }        ///< i64 owned rows, by receiver
  /// Bytes of its arrays and of the plans made so far.
  std::int64_t bytes() const;

  /// Plan under a view, from a few kept ones or made anew: work that grows with the nodes and the
  /// rows that travel, not with the edges. Hold it as long as it is used.
  std::shared_ptr<const GraphPlan> plan(const CutView& view) const;

 private:
  Shard(const std::filesystem::path& directory, int rank, const Dataset* dataset);
  void check(std::int64_t nodes, int rank, const std::string& file);
  void check_hubs(std::int64_t nodes, int rank, const std::string& file);
  void transpose_halo_block();
  void add_exchange(int limit, GraphPlan& plan) const;
  std::shared_ptr<const GraphPlan> make_plan(const CutView& view, int limit) const;

  CutRule cut_;
  int parts_ = 1;
  std::int64_t interior_ = 0, first_own_hub_ = 0;
  at::Tensor owned_, halo_, halo_offsets_, halo_first_group_, send_offsets_, send_rows_,
      send_first_group_;
  at::Tensor hubs_, hub_offsets_, hub_degree_;
  DeviceTensor row_offsets_, col_, hub_row_offsets_, hub_col_, hub_rows_;
  // Entries of halo columns by (slot, group), rows ascending: i64[h·(G+1)] and i32.
  DeviceTensor use_offsets_, use_row_;
  struct KeptPlan {
    CutView view;
    int limit;  // groups from here on need no halo rows
    std::shared_ptr<const GraphPlan> plan;
  };
  mutable std::vector<KeptPlan> plans_;  // used last at the end
};

/// Who owns which node, known everywhere: owner and local row of every node id. 8 bytes a node.
class NodeMap {
 public:
  /// Collective over `world`: every rank gives its owned ids. Throws DataError unless each of
  /// `nodes` is owned once (on every rank, since all see the same lists).
  NodeMap(Communicator& world, const at::Tensor& owned, std::int64_t nodes);
  /// The same from the ranks' owned ids one after the other, and how many each has. Local.
  NodeMap(const at::Tensor& ids_N, const std::vector<std::int64_t>& counts, std::int64_t nodes);
  std::int64_t nodes() const { return static_cast<std::int64_t>(owner_.size()); }
  int owner(std::int64_t node) const { return owner_[node]; }
  std::int32_t local(std::int64_t node) const { return local_[node]; }

 private:
  std::vector<std::int32_t> owner_, local_;
};

}  // namespace graphlora
