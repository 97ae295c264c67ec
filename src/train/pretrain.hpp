// Matrix factorization of E by BCE, row-sparse, distributed by owner.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "dist/job.hpp"
#include "graph/shard.hpp"
#include "model/embedding_table.hpp"

namespace graphlora {

struct PretrainConfig {
  std::int64_t width = 256;   ///< d_e, bias columns included
  std::int64_t epochs = 60;   ///< at most
  std::int64_t patience = 3;  ///< epochs without a better validation AUC
  /// Rows, global; 0: the largest power of two from 4096 to 65536 that makes 128 batches an epoch.
  std::int64_t batch_size = 0;
  double lr = 1e-2, weight_decay = 1e-4, init_std = 0.01;
  bool bias = true;  ///< the last two columns hold (b_u, 1) for users and (1, b_v) for items
  std::uint64_t seed = 1;
  std::string precision = "fp32";
};

struct PretrainEpoch {
  std::int64_t epoch = 0;
  double loss = 0;                  ///< mean BCE over the epoch's rows, as trained
  std::optional<double> valid_auc;  ///< empty unless both labels occur
  double seconds = 0;
};

struct PretrainResult {
  EmbeddingTable table;  ///< of the best epoch; of the last one where no validation AUC is defined
  std::int64_t best_epoch = 0;
  std::vector<PretrainEpoch> epochs;
  std::optional<double> train_auc, valid_auc;  ///< of the table; train: over a sample
  double seconds = 0;
  std::int64_t batch_size = 0;  ///< rows, as used
  bool interrupted = false;     ///< a signal ended it early: the table is no result
};

/// Factorizes the labels of all training rows: minimizes the mean BCE of E_u·E_v over a batch's
/// rows (over 4096 of them, where a batch has more: the sum divided by 4096) plus
/// weight_decay/2·‖E‖² of its rows of E, by Adam on those rows alone (steps counted per row). Rows
/// of nodes without training interactions are 0. `owned`: node ids of this rank's rows of the
/// result. A rank works on the rows that it owns an end of, and plans later batches while foreign
/// rows of E travel. Both owners of a row's ends compute its gradient, in the batch's order, so
/// that the result has the same bits at any number of ranks and threads. Of more than 200,000
/// validation rows a fixed sample is scored. Collective. Errors are agreed: nothing to train on, a
/// width too small, too many rows, divergence.
PretrainResult pretrain(Job& job, const Dataset& dataset, const at::Tensor& owned,
                        const NodeMap& map, const PretrainConfig& config);

/// Reads DIRECTORY/pretrain.json and returns whether the last two columns of E are bias columns.
/// Throws DataError if it is damaged or of another dataset. Local.
bool check_pretrained(const std::filesystem::path& directory, const Dataset& dataset);

/// E_u·E_v for each of `rows` (indices into the dataset), scores in fp32, in that order on every
/// rank. Collective.
std::vector<float> score_by_embeddings(Communicator& world, const Dataset& dataset,
                                       const NodeMap& map, const EmbeddingTable& table,
                                       const std::vector<std::int64_t>& rows);

}  // namespace graphlora
