// Saves beside training: a copy of the model, then a thread on each rank that writes its share.
#pragma once
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "core/file.hpp"
#include "dist/job.hpp"
#include "train/checkpoint_contents.hpp"

namespace graphlora {

/// Saves one step after another, at most one at a time. Each has two stages: every rank's thread
/// writes its share into step-NNNNNN.tmp-…; once all are done, rank 0's thread adds the manifest,
/// renames the directory, and replaces LATEST (and BEST). The threads don't communicate: that a
/// stage is over, or has failed, travels with the sums of a training step (status(), advance()).
/// A save that fails is a warning and leaves nothing; training goes on.
class CheckpointWriter {
 public:
  struct Options {
    std::filesystem::path output;
    std::int64_t keep = 0;  ///< see delete_old_steps
    /// Of rank 0's thread; what they throw fails the save. The first throws where the output is
    /// another run's by now, and is asked before every change of what others read.
    std::function<void()> check_lock = {}, before_publishing = {};
  };
  /// One rank's part in the present stage.
  struct Status {
    bool done = true, failed = false;
  };

  CheckpointWriter(Job& job, Communicator& world, Options options);
  /// Waits for this rank's thread; a save that was not finished leaves nothing.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Finishes the save under way, copies the model and starts to write it. Collective. Errors of
  /// copying are agreed; those of writing only show later.
  void start(Recommender& model, Optimizer& optimizer, const TrainingState& state,
             const RunIdentity& identity);
  /// Local. Done, where nothing is under way.
  Status status();
  /// Takes how many ranks have said done and failed: the same numbers on every rank, of one call of
  /// status() on each. Local.
  void advance(std::int64_t done, std::int64_t failed);
  /// Waits until nothing is under way. Collective.
  void finish();
  /// Throws DataError on the ranks that know why the last save, now finished, failed. Local.
  void require_saved() const;
  /// Whether the last finished save failed; the same on all ranks.
  bool failed() const { return failed_; }

 private:
  enum class Stage { idle, writing, publishing };
  void run(std::function<void()> work);
  void publish();
  void end(bool failed);

  Job& job_;
  Communicator& world_;
  Options options_;
  Stage stage_ = Stage::idle;
  std::int64_t step_ = -1;
  std::shared_ptr<const CheckpointContents> contents_;
  std::optional<AtomicDirectory> directory_;  // of rank 0
  std::future<void> work_;                    // of the present stage
  std::string cause_, last_cause_;            // of this rank's failure, empty: none
  bool failed_ = false;
};

}  // namespace graphlora
