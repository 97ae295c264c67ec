// ngcf, gcn, graphsage and gat: GNNs with weights between propagations, run by autograd.
#pragma once
#include "model/gnn.hpp"

namespace graphlora {

/// Definitions: docs/formats.md, "GNNs". What can be is projected before it travels. Throws
/// nothing; `config` is resolved.
std::unique_ptr<Gnn> make_layered_gnn(const GnnConfig& config, std::int64_t embedding_width,
                                      const at::TensorOptions& options, std::uint64_t seed);

}  // namespace graphlora
