// Devices that a process can compute on. Nothing here starts the GPU's context.
#pragma once
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <string>

namespace graphlora {

/// Why this process can't compute on a GPU, in one line; empty where it can.
std::string why_no_cuda();

/// The GPU of the rank with this number among those of its host: local_rank mod the GPUs that the
/// process sees. Throws ConfigError where there is none.
at::Device cuda_device(int local_rank);

/// The UUID of a GPU, or of the part of one (MIG): equal for processes that share it.
std::array<std::int64_t, 2> gpu_uuid(at::Device device);

/// Its name, like "NVIDIA H100 80GB HBM3".
std::string gpu_name(at::Device device);

/// Its PCI address, like "0000:1b:00.0": tells the GPUs of a host apart, whatever part of them a
/// process sees. Parts of one GPU (MIG) have the same.
std::string gpu_address(at::Device device);

}  // namespace graphlora
