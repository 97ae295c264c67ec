// Norms by group of parameters: what to look at when training has diverged.
#pragma once
#include <string>
#include <vector>

#include "dist/parameter.hpp"
#include "dist/process_grid.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

/// One line each for adapters, learned λ, projector, GNN and embeddings, where there are any:
/// numbers, norm of the values and of their gradients (finite ones only, each element once over all
/// ranks), and how many of each are not finite. Collective; the same text on every rank.
std::string norm_table(const std::vector<Parameter>& parameters, const EmbeddingTable& table,
                       const EmbeddingGradient& gradient, const ProcessGrid& grid);

}  // namespace graphlora
