// The parts of a training step, each by itself.
#pragma once
#include <filesystem>
#include <vector>

#include "train/benchmark/measurement.hpp"
#include "train/trainer.hpp"

namespace graphlora::benchmark {

/// Products of this rank's slices of the LLM's linears, forward (x·Wᵀ) and backward (dy·W), in bf16
/// and fp32, at several numbers of tokens up to `tokens`; all ranks at once. Collective.
std::vector<Measurement> measure_matrices(Job& job, const Repetitions& repetitions,
                                          Recommender& model, std::int64_t tokens);

/// The decoder forward and backward (as a step runs it, without the graph side), by tokens of a
/// pack of the first training batches; "new length" is a pack's first time, which makes the code of
/// products of its length, as a step does for nearly every pack. Collective.
std::vector<Measurement> measure_decoder(Job& job, const Repetitions& repetitions,
                                         Recommender& model, const TrainConfig& config);

/// Sums over the edges of this rank's shard, r wide, without exchange; and the exchange by itself.
/// Collective.
std::vector<Measurement> measure_graph(Job& job, const Repetitions& repetitions,
                                       Recommender& model);

/// All-reduce and all-to-all over messages from 8 bytes to `largest`. Collective.
std::vector<Measurement> measure_collectives(Job& job, const Repetitions& repetitions,
                                             std::int64_t largest);

/// Titles through the tokenizer; batches through sampler, prompts and packs. Collective (ranks do
/// the same at once).
std::vector<Measurement> measure_loading(Job& job, const Repetitions& repetitions,
                                         Recommender& model, const TrainConfig& config,
                                         const std::filesystem::path& model_directory);

/// A checkpoint into `directory`, written and waited for; removed again. Collective.
std::vector<Measurement> measure_save(Job& job, const Repetitions& repetitions, Recommender& model,
                                      Optimizer& optimizer, const std::filesystem::path& directory);

}  // namespace graphlora::benchmark
