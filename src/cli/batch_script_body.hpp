// The shell code that every job script has.
#pragma once

namespace graphlora {

/// slurm/train.sbatch from the line on that says so: launches, passes signals on, requeues.
extern const char* const kBatchScriptBody;

}  // namespace graphlora
