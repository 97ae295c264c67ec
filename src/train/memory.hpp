// What a training run keeps in memory for its graph side, before it runs, and what it has taken.
#pragma once
#include <cstdint>
#include <string>

#include "train/recommender.hpp"

namespace graphlora {

/// Bytes of the parts that grow with users and items: E, its optimizer's moments, the graph (shard,
/// plans of all batches, node map).
struct GraphMemory {
  std::int64_t embeddings = 0, moments = 0, graph = 0;
  std::int64_t total() const { return embeddings + moments + graph; }
};

/// Of this rank, for training with every batch's plan; makes the plans. `moments`: whether the
/// optimizer keeps them. Local.
GraphMemory predict_memory(const Recommender& model, bool moments);

/// One line: the sum over ranks, its parts, and the largest rank's. Collective; the same
/// everywhere.
std::string describe_memory(const GraphMemory& mine, Communicator& world);

/// This process' memory: its own pages, and its share of those that it maps with others (PSS); 0
/// where the kernel does not tell.
std::int64_t proportional_set_bytes();

}  // namespace graphlora
