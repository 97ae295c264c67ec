// The commands of the program. Each is one file src/cli/NAME.cpp, which defines its two functions.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "core/options.hpp"
#include "dist/job.hpp"

namespace graphlora {

/// A command's file binds its options in a struct and defines, for NAME `thing`:
///
///     struct ThingOptions {
///       std::string data;
///       CommonOptions common;
///       OptionTable table() {
///         OptionTable table("thing", "Does the thing", "What it reads and writes, in a
///         paragraph."); table.example("graphlora thing --data run/dataset", "the simplest use")
///             .add_required("Input", "data", &data, "DIR: dataset written by prepare");
///         add_common_options(table, common);
///         return table;
///       }
///     };
///     OptionTable describe_thing() { return table_of<ThingOptions>(); }
///     int run_thing(Job& job, const std::vector<std::string>& arguments) {
///       ThingOptions options;
///       job.agree([&] { options.table().parse(arguments); });  // main has handled --help
///       apply_common_options(options.common, *job.world());
///       …
///       return 0;
///     }
struct Command {
  const char* name;
  /// Does the work inside the job; results go to stdout. Collective. Returns the exit code.
  int (*run)(Job& job, const std::vector<std::string>& arguments);
  /// Its options with their defaults, for --help and docs: needs no Job.
  OptionTable (*describe)();
};

int run_prepare(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_prepare();
int run_generate(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_generate();
int run_partition(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_partition();
int run_pretrain(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_pretrain();
int run_train(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_train();
int run_evaluate(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_evaluate();
int run_recommend(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_recommend();
int run_export(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_export();
int run_inspect(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_inspect();
int run_benchmark(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_benchmark();
int run_plan(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_plan();
int run_doctor(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_doctor();
int run_slurm(Job& job, const std::vector<std::string>& arguments);
OptionTable describe_slurm();

/// All commands, in the order in which a user needs them.
std::span<const Command> commands();

}  // namespace graphlora
