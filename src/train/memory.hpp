// What a training run keeps in memory, before it runs.
#pragma once
#include <cstdint>
#include <string>

#include "train/recommender.hpp"
#include "train/sampler.hpp"
#include "train/trainer.hpp"

namespace graphlora {

/// Bytes of the parts that grow with users and items: E, its optimizer's moments, the graph (shard,
/// plans of all batches, node map), the titles as tokens, what the GNN holds in a step (0
/// for frontiers, which differ from step to step).
struct GraphMemory {
  std::int64_t embeddings = 0, moments = 0, graph = 0, titles = 0, gnn = 0;
  std::int64_t saving = 0;  ///< copies while a step is written, on top
  std::int64_t total() const { return embeddings + moments + graph + titles + gnn; }
};

/// Of this rank, for training with every batch's plan; makes the plans. `moments`: whether the
/// optimizer keeps them. Local.
GraphMemory predict_memory(Recommender& model, bool moments);

/// One line: the sum over ranks, its parts, and the largest rank's. Collective; the same
/// everywhere.
std::string describe_memory(const GraphMemory& mine, Communicator& world);

/// Logs what the LLM side of a step will take on rank 0, with a warning where the ranks of its host
/// (or of its GPU) will take more than is free there. Collective.
void report_llm_memory(Job& job, Recommender& model, const TrainConfig& config);

/// With --gnn.mode auto and a GNN that runs on frontiers: throws ConfigError where that of the
/// first batch, as predicted, does not fit into the memory of a host. Collective, agreed.
void require_gnn_fits(Job& job, Recommender& model, const Sampler& sampler);

}  // namespace graphlora
