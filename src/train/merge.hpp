// A base model with an adapter merged into its weights, as an HF directory.
#pragma once
#include <filesystem>
#include <functional>

#include "model/hf_checkpoint.hpp"
#include "train/peft_adapter.hpp"

namespace graphlora {

/// Bytes that write_merged will write, but for a few small files.
std::uint64_t merged_bytes(const HfCheckpoint& base);

/// Writes into `directory` the base's weights under their own file names, in their order and types,
/// adapted ones as W + (α/r)·B·A, computed in fp32 (fp64 where W, A or B are) and rounded once; its
/// index, config and tokenizer files as they are. Holds a few MiB of a tensor at a time. `progress`
/// is told the bytes written so far. Throws DataError (disk full, an adapter of another base, a sum
/// that is not finite), ShapeError. Local.
void write_merged(const PeftAdapter& adapter, const HfCheckpoint& base,
                  const std::filesystem::path& directory,
                  const std::function<void(std::uint64_t)>& progress);

}  // namespace graphlora
