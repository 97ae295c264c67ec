// Matrix factorization of E by BCE, row-sparse, distributed by owner.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "data/dataset.hpp"
#include "dist/job.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

struct PretrainConfig {
  std::int64_t width = 256;        ///< d_e, bias columns included
  std::int64_t epochs = 60;        ///< at most
  std::int64_t patience = 3;       ///< epochs without a better validation AUC
  std::int64_t batch_size = 1024;  ///< rows, global
  double lr = 1e-2, weight_decay = 1e-4, init_std = 0.01;
  bool bias = true;  ///< the last two columns hold (b_u, 1) for users and (1, b_v) for items
  std::uint64_t seed = 1;
  std::string precision = "fp32";
};

struct PretrainResult {
  EmbeddingTable table;  ///< of the best epoch
  std::int64_t best_epoch = 0, epochs = 0;
  double train_auc = 0, valid_auc = 0, seconds = 0;
};

/// Collective; same result at any number of ranks (fp64: to 1e-8 relative).
PretrainResult pretrain(Job& job, const Dataset& dataset, const Shard& shard, const NodeMap& map,
                        const PretrainConfig& config);

/// E_u·E_v for each of `rows` (indices into the dataset), scores in fp32, in that order on every
/// rank. Collective.
std::vector<float> score_by_embeddings(Communicator& world, const Dataset& dataset,
                                       const NodeMap& map, const EmbeddingTable& table,
                                       const std::vector<std::int64_t>& rows);

}  // namespace graphlora
