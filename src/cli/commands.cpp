#include "cli/commands.hpp"

namespace graphlora {

std::span<const Command> commands() {
  static const std::vector<Command> all{
      {"prepare", run_prepare, describe_prepare},
      {"generate", run_generate, describe_generate},
      {"partition", run_partition, describe_partition},
      {"pretrain", run_pretrain, describe_pretrain},
      {"train", run_train, describe_train},
      {"evaluate", run_evaluate, describe_evaluate},
      {"recommend", run_recommend, describe_recommend},
      {"export", run_export, describe_export},
      {"inspect", run_inspect, describe_inspect},
      {"benchmark", run_benchmark, describe_benchmark},
      {"plan", run_plan, describe_plan},
      {"doctor", run_doctor, describe_doctor},
      {"slurm", run_slurm, describe_slurm},
  };
  return all;
}

}  // namespace graphlora
