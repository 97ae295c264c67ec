// The options of a training step, for all commands that run or predict one.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cli/common_options.hpp"
#include "train/trainer.hpp"

namespace graphlora {

struct TrainSettings {
  std::string data, model, pretrained, templates, shared_prefix = "on";
  std::vector<std::string> plain;  ///< see PlainPaths
  std::int64_t tensor_parallel = 1;
  PartitionConfig partition;
  ModelConfig model_config;
  TrainConfig train;
  CommonOptions common;
};

/// Adds all options of train but those of its input and output, bound to the settings returned,
/// which must live as long as the table.
std::shared_ptr<TrainSettings> add_training_options(OptionTable& table);

/// Brings seed, precision, templates to the parts that need them. Throws ConfigError for what does
/// not go together.
void settle(TrainSettings& settings);

}  // namespace graphlora
