#include "cli/commands.hpp"

namespace graphlora {

OptionTable describe_prepare();
int run_prepare(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_partition();
int run_partition(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_pretrain();
int run_pretrain(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_train();
int run_train(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_evaluate();
int run_evaluate(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_export();
int run_export(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_inspect();
int run_inspect(Job& job, const std::vector<std::string>& arguments);

std::span<const Command> commands() {
  static const std::vector<Command> all{
      {"prepare", run_prepare, describe_prepare},
      {"partition", run_partition, describe_partition},
      {"pretrain", run_pretrain, describe_pretrain},
      {"train", run_train, describe_train},
      {"evaluate", run_evaluate, describe_evaluate},
      {"export", run_export, describe_export},
      {"inspect", run_inspect, describe_inspect},
  };
  return all;
}

}  // namespace graphlora
