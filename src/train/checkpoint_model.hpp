// A trained model as a command needs it: everything a checkpoint, a dataset and an LLM directory
// add up to.
#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "train/checkpoint.hpp"

namespace graphlora {

class CheckpointModel {
 public:
  /// `checkpoint`: a step or a training output (BEST, else LATEST). `precision`: as for
  /// Precision::parse, empty: the checkpoint's own. Opens the dataset with the checkpoint's cut;
  /// `tensor_parallel` ranks share a replica of the LLM, whatever grid has written it.
  /// Collective; errors are agreed.
  CheckpointModel(Job& job, const std::filesystem::path& data,
                  const std::filesystem::path& checkpoint, const std::filesystem::path& base_model,
                  const std::string& precision, int tensor_parallel = 1);

  const Workspace& workspace() const { return *workspace_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  Recommender& model() { return *model_; }

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Recommender> model_;
};

}  // namespace graphlora
