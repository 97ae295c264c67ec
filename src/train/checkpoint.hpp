// Checkpoints: OUTPUT/step-NNNNNN/ (docs/formats.md), topology-free, verified on loading.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "train/optimizer.hpp"
#include "train/recommender.hpp"

namespace graphlora {

inline constexpr std::int64_t kCheckpointFormat = 1;

/// What the training loop must remember beside weights and moments; all else follows from (seed,
/// step).
struct TrainingState {
  std::int64_t step = 0;
  double best_auc = -1;  ///< best validation AUC so far, -1: none
  std::int64_t best_step = -1;
  std::int64_t evaluations_since_best = 0;
  std::int64_t evaluated_step = -1;  ///< last step whose validation was done, -1: none
};

/// The PEFT adapter that a run started from (--init-adapter).
struct AdapterSource {
  std::string path, fingerprint;  ///< empty: none
};

/// Settings of a run that a resumed one must share; refused by name when they differ. An initial
/// adapter need not be named again, but must not be another one.
struct RunIdentity {
  std::uint64_t seed = 1;
  std::int64_t batch_size = 0, block = 1, max_train_examples = 0;
  AdapterSource init_adapter = {};
};

/// Writes step-NNNNNN/ (temporary directory, checksums, rename) and then LATEST: whole tensors,
/// whatever the grid. Replicated parameters are hash-compared first. Collective; errors are agreed.
void save_checkpoint(Job& job, const std::filesystem::path& output, Recommender& model,
                     Optimizer& optimizer, const TrainingState& state, const RunIdentity& identity);
/// OUTPUT/step-NNNNNN.
std::filesystem::path step_directory(const std::filesystem::path& output, std::int64_t step);
/// Names a step in OUTPUT/BEST. Local to rank 0.
void mark_best(const std::filesystem::path& output, std::int64_t step);
/// Deletes all but the newest `keep` steps; never BEST's or LATEST's. keep <= 0: keeps all. What
/// cannot be deleted is a warning. Throws DataError if BEST or LATEST is damaged. Local to rank 0.
void delete_old_steps(const std::filesystem::path& output, std::int64_t keep);

/// A step directory opened for reading: manifest checked, every file's size and checksum verified.
class Checkpoint {
 public:
  /// `path`: a step, or OUTPUT (BEST, else LATEST; with `prefer_latest` LATEST only). Throws
  /// DataError. `verify`: checksums too (rank 0 does it for all). Local.
  Checkpoint(const std::filesystem::path& path, bool prefer_latest, bool verify);

  const std::filesystem::path& directory() const { return directory_; }
  const nlohmann::json& manifest() const { return manifest_; }
  ModelConfig model_config() const;
  TrainingState state() const;
  bool bias_columns() const;
  CutKind cut() const;
  std::int64_t groups() const;
  AdapterSource init_adapter() const;
  /// Throws DataError unless the checkpoint belongs to this very dataset.
  void require_dataset(const Dataset& dataset) const;
  /// Throws DataError unless it belongs to this base model.
  void require_base(const HfCheckpoint& base) const;
  /// Throws ConfigError naming the first setting that differs from the run that wrote it.
  void require_identity(const RunIdentity& identity) const;
  /// The same for the model's configuration and its prompt templates.
  void require_model(const Recommender& model) const;
  /// Copies the stored values, or this rank's slices of them, into the model's dense parameters.
  /// Throws DataError, ShapeError. Local.
  void load_parameters(Recommender& model) const;
  /// Moments of the dense parameters. Local.
  void load_moments(Optimizer& optimizer) const;

 private:
  std::filesystem::path directory_;
  nlohmann::json manifest_;
};

/// Directory that LATEST names, if there is one.
std::optional<std::filesystem::path> latest_step(const std::filesystem::path& output);

}  // namespace graphlora
