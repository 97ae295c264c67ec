// A Slurm job script for one cluster, from what its site file says.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/options.hpp"

namespace graphlora {

/// What Slurm is asked for, what the nodes need, and what runs. Empty texts and zeros: not said.
struct BatchJob {
  std::string name = "graphlora", partition, account, qos, constraint, reservation, time;
  std::int64_t nodes = 1, tasks_per_node = 1, cpus_per_task = 0;
  std::string memory;  ///< of a node
  std::int64_t gpus_per_node = 0;
  std::string gpu_type, gpu_request = "gpus-per-node";
  std::string sbatch;  ///< further options of sbatch, separated by blanks
  std::string log = "%x-%j.out";
  std::int64_t warning_seconds = 120;  ///< from SIGUSR1 to the time limit

  std::vector<std::string> modules;
  std::string prologue;  ///< shell commands, one line
  std::string container = "none", image, container_options;

  std::string program;  ///< empty: graphlora of the container, else the one that writes the script
  std::string command = "train", arguments;
  std::string launcher = "auto", srun_options, mpirun_options;
  std::int64_t max_restarts = 100;
};

/// The options that fill a job. Their checks refuse what could end a line of the script or a word
/// of sbatch's: control characters everywhere; blanks, quotes, backslashes and # in a word.
void add_batch_options(OptionTable& table, BatchJob& job);

/// The script: #SBATCH lines without any variable, then what the site needs, then the body of
/// slurm/train.sbatch, which launches, requeues and resumes. `program`: the one to run outside a
/// container where the job names none. Throws ConfigError where options don't fit together.
std::string batch_script(const BatchJob& job, const std::string& program);

}  // namespace graphlora
