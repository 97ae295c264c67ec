// The graph side of a step: GNN on the shards, anchors' rows to the ranks that hold their examples,
// and back. Shapes: n owned rows, A anchors asked for by this rank, D = d_e, r rank, H hidden.
#pragma once
#include <torch/types.h>

#include <optional>
#include <span>

#include "dist/process_grid.hpp"
#include "graph/gather_rows.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"
#include "model/gnn.hpp"
#include "model/graphlora.hpp"
#include "model/projector.hpp"

namespace graphlora {

class AnchorStage {
 public:
  /// `gnn` and `projector` may be null. All are kept by reference.
  AnchorStage(ProcessGrid& grid, const NodeMap& map, const Shard& shard,
              const EmbeddingTable& table, Gnn* gnn, Projector* projector);

  /// Rows for the anchors `nodes` of this rank's examples under `view`; unknown[i] != 0 zeroes E
  /// and z of anchor i. When training, the tensors are leaves that require grad, and the LLM
  /// accumulates into them. Collective.
  AnchorRows forward(const CutView& view, std::span<const std::int64_t> nodes,
                     std::span<const std::uint8_t> unknown, bool training);
  /// From the leaves' gradients: projector and GNN gradients into their parameters, E's as
  /// returned. Collective.
  EmbeddingGradient backward();

  /// z of all owned nodes under the full view (export). Collective.
  at::Tensor node_z();

 private:
  struct Running;
  ProcessGrid& grid_;
  const NodeMap& map_;
  const Shard& shard_;
  const EmbeddingTable& table_;
  Gnn* gnn_;
  Projector* projector_;
  std::shared_ptr<Running> running_;
};

}  // namespace graphlora
