// Checkpoints: OUTPUT/step-NNNNNN/ (docs/formats.md), topology-free, verified on loading.
// checkpoint_writer writes them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "train/optimizer.hpp"
#include "train/recommender.hpp"

namespace graphlora {

/// 2: the manifest has a checksum of itself. Files of format 1 are read as well.
inline constexpr std::int64_t kCheckpointFormat = 2, kOldestCheckpointFormat = 1;

/// A checkpoint of a format that this program doesn't read. Exit code 3.
struct FormatError : DataError {
  using DataError::DataError;
};

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
  std::int64_t groups = 0;  ///< --graph.groups as asked for; without effect on a cut of none
  /// Optimizer, schedule and stages by option. Of these only optim.type must be the same.
  nlohmann::json course = nlohmann::json::object();
};

/// OUTPUT/step-NNNNNN.
std::filesystem::path step_directory(const std::filesystem::path& output, std::int64_t step);
/// Replace OUTPUT/LATEST and OUTPUT/BEST; the second one not where it names `step` already, or
/// there is no such step. Local to rank 0.
void mark_latest(const std::filesystem::path& output, std::int64_t step);
void mark_best(const std::filesystem::path& output, std::int64_t step);
/// Deletes all but the newest `keep` steps; never BEST's or LATEST's. keep <= 0: keeps all. What
/// cannot be deleted is a warning. Throws DataError if BEST or LATEST is damaged. Local to rank 0.
void delete_old_steps(const std::filesystem::path& output, std::int64_t keep);

/// Whether OUTPUT holds a run: LATEST, or a step. Throws ConfigError where it is something else: a
/// dataset, a model, a single step.
bool holds_run(const std::filesystem::path& output);

struct DamagedStep {
  std::filesystem::path path;
  std::string cause;
};
/// Where a run goes on.
struct ResumePoint {
  std::optional<std::filesystem::path> step;  ///< none: from the start
  std::vector<DamagedStep> damaged;           ///< what was passed over, LATEST included
};
/// The step that LATEST names or, where it is damaged or missing, the newest whole one: each is
/// verified. Throws DataError where there are steps and none is whole, FormatError. Deletes
/// nothing. Local to rank 0, which must hold the run's lock.
ResumePoint find_resume_point(const std::filesystem::path& output);
/// For a run about to write: removes what killed ones left half-written, and renames damaged steps
/// to NAME.damaged. What can't be done is a warning. Local to rank 0.
void tidy_output(const std::filesystem::path& output, const std::vector<DamagedStep>& damaged);

/// Whether a parameter of that name is in adapter/, which has PEFT's names; the others are in
/// graphlora.safetensors.
bool is_adapter(const std::string& name);
/// SHA-256 of a manifest but for its "checksum".
std::string manifest_checksum(nlohmann::json manifest);

/// A step directory opened for reading: manifest checked, every file's size and checksum verified.
class Checkpoint {
 public:
  /// `path`: a step, or OUTPUT (BEST, else LATEST; with `prefer_latest` LATEST only). Throws
  /// DataError, of an unknown format FormatError. `verify`: checksums too (rank 0 does it for all).
  /// Local.
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
  /// "--optim.lr was 0.001, now 0.1" of each option of the course that may change and does.
  std::vector<std::string> changed_course(const nlohmann::json& course) const;
  /// Like require_identity for the model's configuration and its prompt templates.
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

}  // namespace graphlora
