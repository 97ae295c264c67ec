// One rank's part of the graph, and the plans that GNNs and exchanges work from.
// Shapes: n owned nodes, h halo nodes, P ranks, G cut groups, S rows to send, R halo rows received.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "dist/communicator.hpp"
#include "graph/cut.hpp"

namespace graphlora {

/// A tensor on the CPU and its copy on the device that asked for it last.
class DeviceTensor {
 public:
  DeviceTensor() = default;
  explicit DeviceTensor(at::Tensor cpu) : cpu_(std::move(cpu)) {}
  const at::Tensor& cpu() const { return cpu_; }
  /// With this dtype, on this device; copied at the first call only.
  const at::Tensor& to(at::Device device, at::ScalarType dtype) const;
  const at::Tensor& to(at::Device device) const { return to(device, cpu_.scalar_type()); }

 private:
  at::Tensor cpu_;
  mutable at::Tensor copy_;
};

/// For each of a number of rows up to two runs of indices: what a sum over rows goes through.
struct RowLists {
  DeviceTensor runs;   ///< i64[rows,4]: [begin, end) of the first run, [begin, end) of the second
  DeviceTensor index;  ///< i32: what the runs point into
  std::vector<std::int64_t> blocks;  ///< row boundaries of blocks of about equal work, 0 … rows
  std::int64_t rows() const { return runs.cpu().size(0); }
};

/// Lists with their blocks, from i64[rows,4] pointers into an i32 index.
RowLists make_row_lists(at::Tensor runs, at::Tensor index);

/// What one propagation needs, whatever it stands for (a cut, later a frontier or hubs). Columns
/// index owned, then halo rows. Tensors are views of the shard where possible and keep it alive.
struct GraphPlan {
  std::int64_t owned = 0;       ///< n
  std::int64_t interior = 0;    ///< the first rows, which have no halo column
  std::int64_t halo_slots = 0;  ///< h, the shard's whole halo
  std::int64_t halo = 0;        ///< R, halo rows that travel under this plan
  RowLists in_edges;            ///< n rows: columns of the entries in force
  RowLists halo_uses;           ///< h rows, the transposed halo block: rows that use a halo slot
  RowLists homecoming;          ///< n - interior boundary rows: which of the S rows sent they are
  at::Tensor degree_n;          ///< i32, degrees of owned rows in the cut graph
  at::Tensor inverse_sqrt_degree_n;          ///< f64, D^-1/2, 0 where the degree is 0
  DeviceTensor scale;                        ///< the same as f64[n,1], for propagate_symmetric
  std::vector<std::int64_t> send_counts;     ///< rows to each rank
  DeviceTensor send_rows;                    ///< i64[S], owned rows, concatenated by receiver
  std::vector<std::int64_t> receive_counts;  ///< halo rows from each rank
  DeviceTensor receive_rows;                 ///< i64[R], halo slots 0…h-1, by sending rank
  std::int64_t entries = 0;                  ///< entries in force
  bool whole_halo() const { return halo == halo_slots; }
};

/// A part as stored in part-XXXXX.safetensors. Local order: interior | boundary | halo grouped by
/// owner, within an owner sorted by (first_group, id).
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

  /// Plan under a view; made once per view and kept.
  std::shared_ptr<const GraphPlan> plan(const CutView& view) const;

 private:
  Shard(const std::filesystem::path& directory, int rank, const Dataset* dataset);
  void check(std::int64_t nodes, int rank, const std::string& file);
  void transpose_halo_block();
  std::shared_ptr<const GraphPlan> make_plan(const CutView& view) const;

  CutRule cut_;
  int parts_ = 1;
  std::int64_t interior_ = 0;
  at::Tensor owned_, halo_, halo_offsets_, row_offsets_, col_, halo_first_group_, send_offsets_,
      send_rows_, send_first_group_;
  // Entries of halo columns by (slot, group), rows ascending: i64[h·(G+1)] and i32.
  at::Tensor use_offsets_, use_row_;
  mutable std::vector<std::pair<CutView, std::shared_ptr<const GraphPlan>>> plans_;
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
