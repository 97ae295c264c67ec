// Training by the device path, on the CPU and on GPUs, over MPI and NCCL, is training by the CPU's
// kernels, in fp64, at any number of ranks.
#include <optional>

#include "support/devices.hpp"
#include "training_run.hpp"

namespace graphlora::test {
namespace {

class TrainDevicePath : public OnSetting {
 protected:
  /// Steps, what they leave behind and scores on both.
  void expect_same_training(const ModelConfig& model, const TrainConfig& config) const {
    const SharedDataset shared;
    PartitionConfig partition;
    partition.groups = 3;
    const Outcome expected = run(test::job(), shared.path(), partition, model, config);
    std::optional<DevicePathOnCpu> path;
    if (device().is_cpu()) path.emplace();
    expect_same(run(job(), shared.path(), partition, model, config), expected);
  }
};

TEST_P(TrainDevicePath, EveryGnn) {
  for (const char* type : {"lightgcn", "ngcf", "gcn", "graphsage", "gat"}) {
    ModelConfig model = tiny_model_config();
    model.gnn.type = type;
    SCOPED_TRACE(type);
    expect_same_training(model, tiny_train_config());
  }
}

TEST_P(TrainDevicePath, AllNodesAtEveryStepByGat) {
  ModelConfig model = tiny_model_config();
  model.gnn.type = "gat";
  model.gnn.mode = "full";
  expect_same_training(model, tiny_train_config());
}

TEST_P(TrainDevicePath, EveryTargetLearnedLambdasAndSgd) {
  ModelConfig model = tiny_model_config();
  model.lora.targets.assign(kTargetNames.begin(), kTargetNames.end());
  model.lora.learn_lambda = true;
  TrainConfig config = tiny_train_config();
  config.optimizer.type = "sgd";
  expect_same_training(model, config);
}

TEST_P(TrainDevicePath, OfTheAdaptersAlone) {
  ModelConfig model = tiny_model_config();
  model.gnn.type = "none";
  model.projector = "none";
  expect_same_training(model, tiny_train_config());
}

INSTANTIATE_TEST_SUITE_P(Over, TrainDevicePath, kEverySetting, name_of_setting);

}  // namespace
}  // namespace graphlora::test
