// What a save writes: copied from the model, so that training can go on while it is written.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "train/checkpoint.hpp"
#include "train/embedding_store.hpp"

namespace graphlora {

/// This rank's share of a step directory, in the CPU's memory: its files of embeddings; on rank 0
/// everything else too. Whole tensors, whatever the grid.
class CheckpointContents {
 public:
  /// Copies the model. Replicated parameters are hash-compared first. Collective; errors are
  /// agreed.
  CheckpointContents(Job& job, Recommender& model, Optimizer& optimizer, const TrainingState& state,
                     const RunIdentity& identity);

  /// Writes the share into an existing directory, and the checksums of its files into
  /// share-RRRRR.json there. Throws DataError. Local; needs no communication.
  void write(const std::filesystem::path& directory) const;
  /// On rank 0, once all shares are written: puts their checksums into the manifest, writes it and
  /// removes share-*.json. Throws DataError.
  void write_manifest(const std::filesystem::path& directory) const;

  std::int64_t step() const { return step_; }
  std::int64_t best_step() const { return best_step_; }  ///< with the best AUC so far; −1: none

 private:
  using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

  std::int64_t step_ = 0, best_step_ = -1;
  int rank_ = 0, ranks_ = 1;
  std::vector<EmbeddingFile> embeddings_;
  // Of rank 0.
  NamedTensors parameters_, moments_;
  nlohmann::json manifest_;
  nlohmann::ordered_json adapter_config_;
  std::map<std::string, std::string> metadata_;  // of graphlora.safetensors
};

}  // namespace graphlora
