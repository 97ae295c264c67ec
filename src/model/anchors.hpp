// The graph side of a step: GNN on the shards, anchors' rows to the ranks that hold their examples,
// and back. Shapes: n owned rows, A anchors asked for by this rank, D = d_e, r rank, H hidden.
#pragma once
#include <torch/types.h>

#include <memory>
#include <span>

#include "dist/process_grid.hpp"
#include "graph/frontier.hpp"
#include "graph/gather_rows.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"
#include "model/gnn.hpp"
#include "model/graphlora.hpp"
#include "model/projector.hpp"

namespace graphlora {

class AnchorStage {
 public:
  /// `gnn` and `projector` may be null. All are kept by reference. `config` says whether training
  /// computes all nodes or only the anchors' neighbourhood, and how far that reaches.
  AnchorStage(ProcessGrid& grid, const NodeMap& map, const Shard& shard,
              const EmbeddingTable& table, Gnn* gnn, Projector* projector,
              const GnnConfig& config = {});
  ~AnchorStage();

  /// Rows for the anchors `nodes` of this replica's examples under `view`; unknown[i] != 0 zeroes E
  /// and z of anchor i. The tensors are leaves that require grad, and the LLM accumulates into
  /// them. The ranks of a tensor group give the same anchors; each fetches and projects its share,
  /// an all-gather completes them. Collective.
  AnchorRows forward(const CutView& view, std::span<const std::int64_t> nodes,
                     std::span<const std::uint8_t> unknown);
  /// From the leaves' gradients, which every rank of a tensor group has whole (each takes its own
  /// share's, without reduction): projector and GNN gradients into their parameters, E's as
  /// returned. Collective.
  EmbeddingGradient backward();

  /// Whether training steps compute a frontier instead of all nodes.
  bool frontier() const { return frontiers_ != nullptr; }
  /// Bytes that the GNN of a step with these anchors holds on this rank, predicted from the rows of
  /// its layers. Collective in frontier mode, else local.
  std::int64_t predicted_bytes(const CutView& view, std::span<const std::int64_t> nodes);

  /// Runs the GNN over all training positives once; `infer` then serves rows from it without
  /// gradients (0 for node −1, an unknown user). Call again after parameters moved. Collective, as
  /// is `infer`.
  void begin_inference();
  AnchorRows infer(std::span<const std::int64_t> nodes);

  /// z of all owned nodes over all training positives, (n, r); undefined without a GNN. Collective.
  at::Tensor node_z();

 private:
  struct Step;
  struct Share;
  /// Rows [E | z] picked for sending; z is absent without a GNN.
  at::Tensor picked_rows(const GatherPlan& gather, const at::Tensor& z_Sr) const;
  /// This rank's share of its replica's anchors.
  Share share_of(std::size_t anchors) const;
  /// The rows of all of a replica's anchors from each rank's share of them. Collective over the
  /// tensor group.
  AnchorRows complete(const AnchorRows& own, const Share& share) const;

  ProcessGrid& grid_;
  const NodeMap& map_;
  const Shard& shard_;
  const EmbeddingTable& table_;
  /// Where E is, and with it the GNN, the projector and the anchors' rows.
  at::Device device() const { return table_.weight_nD.device(); }
  Gnn* gnn_;
  Projector* projector_;
  std::int64_t hops_;
  std::unique_ptr<FrontierBuilder> frontiers_;
  std::unique_ptr<Step> step_;
  at::Tensor inference_z_nr_;
};

}  // namespace graphlora
